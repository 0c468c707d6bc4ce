"""SAEs that come from elsewhere and go elsewhere: `tide adopt`, `tide export`, `tide publish`."""

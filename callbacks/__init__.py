"""What watches over a training: resampling, monitors, exporters."""

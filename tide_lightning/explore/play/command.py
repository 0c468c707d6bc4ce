"""`tide play`: serve the page until Ctrl-C."""

from __future__ import annotations

import webbrowser

from tide_lightning.errors import UserError
from tide_lightning.explore.play.server import PlayServer
from tide_lightning.explore.play.studio import Studio
from tide_lightning.explore.run import open_run


def play(
    run: str, port: int = 7861, steps: int = 20, device: str = "auto", browser: bool = False, trust: bool = False
) -> None:
    """Open a page on this machine to search a run's latents, and to raise and lower them while images are drawn.

    Args:
        run: a run folder, or a run's name below runs/.
        port: of the page on 127.0.0.1; 0 takes any that is free.
        steps: of trajectories; fewer are faster.
        device: where to compute; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
        browser: open the page in the web browser.
    """
    if steps < 1:
        raise UserError(f"--steps {steps}: at least 1")
    if not 0 <= port < 2**16:
        raise UserError(f"--port {port}: give a number from 0 to 65535")
    studio = Studio(open_run(run, device, trust=trust), steps)
    try:
        server = PlayServer(studio, port)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; choose another, or 0 for any that is free") from error
    with server:
        print(f"{studio.run.name}: open {server.url} in a browser; Ctrl-C ends", flush=True)
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")

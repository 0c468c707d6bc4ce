"""`tide style`: a prompt in the style of another prompt, or of an image."""

from __future__ import annotations

from tide_lightning.diffusion import sample_images
from tide_lightning.errors import UserError
from tide_lightning.explore.pictures import check_picture, read_picture, save_picture, sheet
from tide_lightning.explore.requests import check_windows, parse_latents, parse_names, parse_numbers, parse_window
from tide_lightning.explore.run import open_run
from tide_lightning.explore.style import separate_style, transfer_style
from tide_lightning.intervene.edits import Edit, check_edits
from tide_lightning.intervene.recording import walk_image, walk_prompts
from tide_lightning.waiting import waiting


def transfer(
    run: str,
    prompt: str = "",
    style: str = "",
    image: str | None = None,
    out: str = "style.png",
    latent: str | None = None,
    sites: str | None = None,
    window: str = "0,0.5",
    strength: str = "1",
    extent: float = 0.5,
    samples: int = 4,
    seed: int = 0,
    steps: int = 20,
    guidance_scale: float | None = None,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Draw a prompt in the style of another prompt or of an image, its content kept.

    Args:
        run: a run folder, or a run's name below runs/.
        prompt: what to draw.
        style: a prompt in whose style.
        image: or a picture file in whose style.
        out: the picture: the prompt's image, and below it with the style, for several seeds.
        latent: latents that make up the style, SITE/NUMBER separated by commas; separated automatically unless given.
        sites: where latents are carried over, separated by commas; the run's first site unless given.
        window: low,high; the times t within which, 1 being pure noise. Late ones leave the layout as it is.
        strength: how many times the difference is added; several separated by commas make rows.
        extent: over what share of an image's places a latent must differ to count as style.
        samples: noises over which the style is averaged, and images drawn.
        seed: of the noises.
        steps: of the trajectories.
        guidance_scale: as in the run's data unless given.
        device: where to compute; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    if steps < 1 or samples < 1:
        raise UserError(f"--steps {steps}, --samples {samples}: at least 1 each")
    if bool(style) == bool(image):
        raise UserError("name one source of style: --style PROMPT or --image FILE")
    check_picture(out)
    strengths, (low, high) = parse_numbers("--strength", strength), parse_window(window)
    opened = open_run(run, device, trust=trust)
    denoiser = opened.denoiser
    named = None if latent is None else parse_latents(latent, "add", (low, high), None, "both")[0]
    names = [edit.site for edit in named] if named else parse_names(sites or "") or list(opened.saes)[:1]
    saes = {site: opened.sae(site) for site in dict.fromkeys(names)}
    check_edits(denoiser, saes, named or [Edit(site, 0) for site in saes])
    check_windows(denoiser, [Edit(next(iter(saes)), 0, window=(low, high))], steps)
    settings = opened.trajectory(steps, guidance_scale)
    noise = denoiser.noise(seed, "style", numbers=range(samples))
    source = walk_prompts([style] * samples, noise, **settings)
    if image is not None:
        source = walk_image(read_picture(denoiser, image, "--image"), noise, num_inference_steps=steps)
    chosen = None if named is None else {site: [int(e.latent) for e in named if e.site == site] for site in saes}
    content = walk_prompts([prompt] * samples, noise, **settings)
    with waiting("Drawing in the style and without it"):
        found = separate_style(denoiser, saes, source, content, latents=chosen, least_extent=extent)
    for site, one in found.items():
        print(f"{site}: {len(one.latents)} latents: {', '.join(map(str, one.latents.tolist()))}")
    start, prompts = denoiser.noise(seed, "sample", numbers=range(samples)), [prompt] * samples
    with waiting("Drawing the original"):
        before = sample_images(denoiser, prompts, initial_noise=start, **settings)
    rows = [[("original" if number == 0 else "", one) for number, one in enumerate(before)]]
    for value in strengths:
        with (
            waiting(f"Drawing in that style, x {value:g}"),
            transfer_style(denoiser, saes, found, strength=value, window=(low, high)) as styled,
        ):
            after = sample_images(styled, prompts, initial_noise=start, **settings)
        rows.append([(f"style x {value:g}" if number == 0 else "", one) for number, one in enumerate(after)])
        print(f"style x {value:g}: pixels moved by {float((after - before).abs().mean()) / 2:.1%} of the range")
    print(save_picture(sheet(rows), out))

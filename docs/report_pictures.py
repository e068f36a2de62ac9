"""Take the pictures of docs/report.md: ``python docs/report_pictures.py`` (needs Chromium).

It trains KEEP on the small shop of the tests, and writes the top of its report at 1280 and at 390
pixels into docs/images.
"""

import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from milk_recsys.config.options import Options  # noqa: E402
from milk_recsys.run import begin  # noqa: E402
from milk_recsys.run.progress import Progress  # noqa: E402
from milk_recsys.train import run  # noqa: E402
from tests.recsys.report.chromium import find_chromium, open_chromium  # noqa: E402
from tests.recsys.report.shop import write_shop  # noqa: E402

HEIGHTS = {1280: 1400, 390: 2300}  # Width and height of each picture in CSS pixels.


def main() -> int:
    """Write both pictures; return the exit status."""
    from PIL import Image

    program = find_chromium()
    if program is None:
        print("error: no Chromium is installed. Install it: apt install chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options, dataset = begin.open_run(
            Options.of(
                data=write_shop(folder / "shop"), out=folder / "run", compare="none", device="cpu"
            )
        )
        run(options, dataset, Progress(quiet=True))
        with open_chromium(program, folder / "profile") as tab:
            for width, height in HEIGHTS.items():
                tab.open(folder / "run/report.html", width=width)
                tab.picture(folder / "page.png")
                data = io.BytesIO((folder / "page.png").read_bytes())
                top = Image.open(data).convert("RGB").crop((0, 0, width, height))
                colours = top.quantize(64, dither=Image.Dither.NONE)
                colours.save(ROOT / f"docs/images/report_{width}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

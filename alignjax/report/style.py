"""One look for all figures, and figures as text or bytes.

Colours are Okabe and Ito's, told apart by colour-blind readers; every policy has a marker of its own as well.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, BAND, DARK_BAND = "#1f2328", "#6e7781", "#e4e7eb", "#009E73", "#00674b"
FIXED = {"reference": ("#6e7781", "o"), "reward": ("#D55E00", "s"), "aligned": ("#009E73", "D")}
OTHERS = (("#0072B2", "^"), ("#CC79A7", "v"), ("#56B4E9", "P"), ("#E69F00", "X"))
# Of further baselines, such as fixed multipliers in ascending order.
BASELINES = (
    ("#a98be0", "<"),
    ("#7b52c7", ">"),
    ("#c2408f", "p"),
    ("#8a1c5b", "h"),
    ("#3f1a5c", "*"),
    ("#8c6d31", "d"),
)
LAM = "\u03bb"  # Greek lambda

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#b6bcc4",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold a dollar sign
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "svg.hashsalt": "alignjax",  # ids are a function of the content
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The figures' style over matplotlib's own defaults, whatever the user's settings; undone on leaving."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def to_svg(figure: Figure) -> str:
    """SVG text of a figure; equal figures give equal text."""
    buffer = io.StringIO()
    with style():
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return buffer.getvalue()


def to_png(figure: Figure, *, dpi: float = 144.0) -> bytes:
    """PNG bytes of a figure."""
    buffer = io.BytesIO()
    with style():
        figure.set_dpi(dpi)
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def policy_mark(name: str, constraints: Sequence[str], policies: Sequence[str] = ()) -> tuple[str, str]:
    """Colour and marker of a policy, the same in all figures and tables of a run.

    Args:
      name: of the policy.
      constraints: of the run.
      policies: all that are shown together, in order: other baselines among them are told apart by it.
    """
    if name in FIXED:
        return FIXED[name]
    if name in constraints:
        return OTHERS[constraints.index(name) % len(OTHERS)]
    others = [one for one in policies if one not in FIXED and one not in constraints]
    place = others.index(name) if name in others else 0
    return BASELINES[place % len(BASELINES)]


def short_name(name: str, most: int = 22) -> str:
    """A name that fits a figure: of a long one the end, which tells folders and categories apart."""
    return name if len(name) <= most else f"..{name[-most + 2 :]}"

"""npasbench: a benchmark suite and leaderboard harness for Neural Parameter Allocation Search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npasbench.sharing_call import count, export, share

__version__ = "0.1.0"
__all__ = ["__version__", "count", "export", "share"]


def __getattr__(name: str) -> Any:
    """Import torch only when one of the calls is used: ``import npasbench`` stays quick."""
    if name in ("count", "export", "share"):
        from npasbench import sharing_call

        return getattr(sharing_call, name)
    raise AttributeError(f"module 'npasbench' has no attribute '{name}'")

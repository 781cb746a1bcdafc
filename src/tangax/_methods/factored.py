"""The NTK by factors: the one entrance to the engine, for calls, for `explain` and for blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._arguments.sides import Arguments
from .._engine.explain import Plan, make_plan
from .._engine.factors import Factors
from .._engine.kernel import kernels
from .._engine.linearise import Source, linearise, unfactored
from .._engine.output_axes import Frame
from .._engine.plan import OutputPlan, check_memory, frames, plan_outputs
from .._shared.axes import Axes
from .._shared.memory import budget
from .._shared.pair import Pair
from .._shared.precision import full_precision
from .remembered import Remembered


@dataclass(frozen=True, eq=False)
class FactorMethod:
    """Kernels of outputs' axes, within `memory`. `factored`: what can stay factored does."""

    trace_axes: Axes
    diagonal_axes: Axes
    memory: int | str | None
    factored: bool
    precision: Any
    remembered: Remembered

    def sources(self, given: Arguments) -> Pair[Source]:
        """The factors of both sides, on demand. What keeps a leaf from being factored is logged."""
        sources, paths = self._sources(given), given.params.paths
        for source in sources.distinct:
            reasons = unfactored(source)
            self.remembered.log_unfactored({paths[leaf]: why for leaf, why in reasons.items()})
        return sources

    def _sources(self, given: Arguments) -> Pair[Source]:
        with full_precision(self.precision):
            return given.sides.map(lambda side: linearise(given, side, self.remembered.distrusted))

    def factors(self, given: Arguments) -> Factors:
        with full_precision(self.precision):
            return self.sources(given).first.whole()

    def plans(self, sources: Pair[Source]) -> tuple[list[Frame], list[OutputPlan]]:
        metas = sources.map(lambda source: source.meta)
        every = frames(metas, self.trace_axes, self.diagonal_axes)
        memory = budget(self.memory)
        with full_precision(self.precision):
            return every, plan_outputs(sources, every, memory, factored=self.factored)

    def kernels(self, names: tuple[str, ...], sources: Pair[Source], *, told: bool = True) -> Any:
        """What is asked for. A budget that will be exceeded is said, unless it was planned with."""
        every, plans = self.plans(sources)
        if told:
            check_memory(plans, budget(self.memory))
        with full_precision(self.precision):
            return kernels(names, sources, every, plans)

    def explain(self, given: Arguments, arguments: int) -> Plan:
        """What a kernel call will do, its arguments taking so many bytes; computes nothing."""
        with full_precision(self.precision):
            sources, memory = self._sources(given), budget(self.memory)
            plans = self.plans(sources)
            return make_plan(given, sources, *plans, arguments=arguments, memory=memory)

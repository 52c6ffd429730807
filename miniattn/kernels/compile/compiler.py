"""Helpers of kernels are compiled for their callers only, and a task keeps its own to itself.

Numba makes a function that Python can call of every compiled function: optimised machine code, with
wrappers that unpack arguments. Of a kernel's helpers nobody needs that. They stay LLVM's code as it
was written, which is linked into the kernels and optimised there, once; this halves the time that
compilation takes.

What Numba links it marks as code that others may want too. LLVM then calls many a helper that has
a single caller, with fifty and more arguments on the stack where NamedTuples are taken apart. In a
task helpers are private, so that such a one becomes a part of its caller: tiles of attention gain
2 to 6 %. Private and not internal: LLVM gives such a helper other arguments, and a name that it
kept would be found by the next code with a helper of that name. What is seldom called is kept apart
(`inner(apart=True)`): LLVM's passes take longer the larger a function is.

Numba's own passes over a function are made for all of Python. Kernels are written in a small part
of it, without closures, comprehensions, exceptions or arrays of their own, and half of the passes
look for what is not there: see `PlainCompiler`.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from llvmlite.binding import Linkage
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, _pass_registry, register_pass
from numba.core.typed_passes import NativeLowering


class _HelperLibrary(JITCodeLibrary):
    """The code of one helper alone; its callers link what it calls as well.

    Numba links the helper's own helpers into it and optimises them with it, and so again at each
    level on the way to the kernel.
    """

    apart = False  # whether it stays a function in its callers' code

    def add_ir_module(self, ir_module: Any) -> None:
        if self.apart:
            for function in ir_module.functions:
                if not function.is_declaration:
                    function.attributes.add("noinline")
        super().add_ir_module(ir_module)

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(NativeLowering):
    """Lowering without machine code: callers link the library, and know it by ``key``."""

    _name = "helper_lowering"

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.library = _HelperLibrary(context.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        state.flags.no_cpython_wrapper = True
        state.flags.no_cfunc_wrapper = True
        state.library.apart = getattr(state.func_id.func, "is_apart", False)
        super().run_pass(state)
        key = object()
        state["cr"] = state["cr"]._replace(cfunc=key)
        libraries = [state.library, *state.library._linking_libraries]
        context.insert_user_function(key, state["cr"].fndesc, libraries)
        return True


class _TaskLibrary(JITCodeLibrary):
    """The code of a task, and of its helpers as nobody else's."""

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.private
        super()._optimize_final_module()


@register_pass(mutates_CFG=True, analysis_only=False)
class _TaskLowering(NativeLowering):
    """Lowering to a library that keeps its helpers to itself."""

    _name = "task_lowering"

    def run_pass(self, state: Any) -> bool:
        codegen = state.targetctx.codegen()
        state.library = _TaskLibrary(codegen, state.func_id.func_qualname)
        state.library.enable_object_caching()  # as Numba's own lowering does
        lowered: bool = super().run_pass(state)
        return lowered


class HelperCompiler(CompilerBase):
    """Numba's own passes but for the lowering."""

    lowering = _HelperLowering

    def define_pipelines(self) -> list[Any]:
        """Return Numba's pipeline with another lowering."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes[:] = [
            (self.lowering if step is NativeLowering else step, text)
            for step, text in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


class _PlainManager(PassManager):
    """Runs passes; Numba's looks after each of them whether it broke what it was given."""

    def run(self, state: Any) -> None:
        for kind, _ in self.passes:
            step = _pass_registry.get(kind).pass_inst
            step.analysis = self._analysis
            step.run_initialization(state)
            step.run_pass(state)
            step.run_finalizer(state)


class PlainCompiler(HelperCompiler):
    """The passes that the helpers of kernels need: functions on numbers, pointers and registers.

    They own no memory, so that nothing counts references, which takes Numba's lowering a fifth of
    its time. A helper that is given arrays goes through all passes.
    """

    passes = (
        untyped_passes.TranslateByteCode,
        untyped_passes.FixupArgs,
        untyped_passes.IRProcessing,
        untyped_passes.RewriteSemanticConstants,
        untyped_passes.DeadBranchPrune,
        untyped_passes.GenericRewrites,
        untyped_passes.ReconstructSSA,
        typed_passes.NopythonTypeInference,
        typed_passes.PreLowerStripPhis,
        _HelperLowering,
        typed_passes.NoPythonBackend,
    )

    def __init__(
        self,
        typingctx: Any,
        targetctx: Any,
        library: Any,
        args: Any,
        result: Any,
        flags: Any,
        *more: Any,
    ) -> None:
        models = targetctx.data_model_manager
        self.is_plain = not any(models[kind].contains_nrt_meminfo() for kind in args)
        if self.is_plain:
            flags.nrt = False
        super().__init__(typingctx, targetctx, library, args, result, flags, *more)

    def define_pipelines(self) -> list[Any]:
        """Return the short pipeline, or Numba's."""
        if not self.is_plain:
            return super().define_pipelines()
        pipeline = _PlainManager("plain")
        for step in self.passes:
            pipeline.add_pass(step, step.__name__)
        pipeline.finalize()
        return [pipeline]


class TaskCompiler(HelperCompiler):
    """The same for tasks."""

    lowering = _TaskLowering


def forget_python(dispatcher: Any) -> Any:
    """Keep compiled functions out of the table of what Python can call; return the dispatcher."""

    def add_overload(result: Any) -> None:
        dispatcher.overloads[tuple(result.signature.args)] = result

    dispatcher.add_overload = add_overload
    return dispatcher


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Let nothing look for garbage: a tenth of the time, as a kernel's compilation keeps it all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

"""Go on from a saved state: resume a run, extend it, or let another run branch off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from train.config import BRANCHABLE, RESUMABLE, Recipe
from train.distributed.ranks import join_ranks
from train.errors import RunError
from train.run.folder import RunFolder
from train.run.metrics import copy_metrics
from train.run.record import run_record, session_record
from train.run.run import Run
from train.schedule import first_difference
from train.setup import assemble, fill_folder, released_on_failure


def resume_run(folder: RunFolder, overrides: Iterable[str] = (), *, from_step: int | None = None) -> Run:
    """The run of a folder at the step of its last complete state.

    With another schedule it continues from the last state to which both schedules lead, so it becomes the run that the
    new schedule would have made: a run is extended from before its decay. What it had come to is kept beside. The
    checkpoint is written again, so that it belongs to the step from which the run continues.

    Args:
        folder: of the run.
        overrides: such as `machine.threads=8` or `schedule.steps=9000`; of sections that a resumed run may change.
        from_step: the state to continue from, whatever the schedules say.

    Raises:
        RecipeError: an override of another section, or one that makes no sense.
        RunError: another process writes to the folder, or there is no state to continue from.
    """
    before = folder.recipe()
    recipe = before.changed(overrides, RESUMABLE)
    ranks = join_ranks(recipe.machine)
    ranks.on_rank0(folder.claim)
    with released_on_failure(folder):
        tokenizer = folder.tokenizer(dataclasses.replace(recipe.tokenizer, chat_template=None))
        run = assemble(recipe, folder, ranks, tokenizer)
        ending = folder.ending() if before.schedule == recipe.schedule else None
        run.schedule = run.schedule_of(recipe, ending)
        steps = _states_to_continue(folder, before, run, from_step)
        fingerprint = run.corpus.fingerprint()
        run.step, scale = folder.states.load(run.model, run.optimizers, ranks, data=fingerprint, steps=steps)
        _continue_loss_scale(run, scale)
        run.batches.load(folder.states.folder_of(run.step))
        if ranks.is_first:
            folder.clean()
            if steps is not None:
                _leave_later_steps(run)
            folder.note(recipe=recipe.to_dict(), ending=ending)
            folder.add_session(session_record(run))
        run.save_model(folder.checkpoint)
        run.saved_step = run.step
    return run


def branch_run(
    source: RunFolder, folder: RunFolder, overrides: Iterable[str] = (), *, from_step: int | None = None
) -> Run:
    """A new run that continues from a state of another one, which stays as it is.

    Its schedule, optimizer and data may differ: to try several decays, or a decay on better text. It continues from the
    last state to which both schedules lead, or from `from_step`.

    Raises:
        RecipeError: an override of a section that must stay, or one that makes no sense.
        RunError: the new folder is not free, or there is no state to continue from.
    """
    overrides = list(overrides)
    before = source.recipe()
    recipe = before.changed(overrides, BRANCHABLE)
    ranks = join_ranks(recipe.machine)
    ranks.on_rank0(lambda: folder.claim_new(overwrite=False))
    with released_on_failure(folder):
        tokenizer = source.tokenizer(dataclasses.replace(recipe.tokenizer, chat_template=None))
        run = assemble(recipe, folder, ranks, tokenizer)
        steps = _states_to_continue(source, before, run, from_step)
        run.step, scale = source.states.load(run.model, run.optimizers, ranks, data=None, steps=steps)
        _continue_loss_scale(run, scale)
        if recipe.data == before.data:  # other data are read from their beginning
            run.batches.load(source.states.folder_of(run.step))
        if ranks.is_first:
            record = run_record(run) | {"branched_from": {"run": str(source.path.resolve()), "step": run.step}}
            fill_folder(run, tokenizer, record)
            copy_metrics(source.metrics, folder.metrics, until=run.step)
        ranks.barrier()
        run.save()
    return run


def _states_to_continue(folder: RunFolder, before: Recipe, run: Run, from_step: int | None) -> list[int] | None:
    """The steps of the states that a run may continue from; None for all.

    Raises RunError where there are none.
    """
    saved = folder.states.steps()
    if from_step is not None:
        if from_step not in saved:
            raise RunError(f"{folder.path} has no state of step {from_step}; it has {_listed(saved)}")
        return [from_step]
    old, new = run.schedule_of(before, folder.ending()), run.schedule
    if old == new and folder is run.folder:
        return None
    same = first_difference(old, new, max(saved, default=0))
    steps = [step for step in saved if step <= min(same, new.steps)]
    if saved and not steps:
        raise RunError(
            f"no state in {folder.path} has learned at this schedule's rates, which differ from step {same + 1} on; "
            f"name one to continue from all the same, as --from-step: {_listed(saved)}"
        )
    return steps


def _leave_later_steps(run: Run) -> None:
    """Keep the checkpoint of a later step under another name, and delete the states of later steps."""
    folder = run.folder
    last = folder.states.steps()[-1]
    if last > run.step:
        kept = folder.keep_checkpoint(last)
        run.ranks.print_rank0(f"continuing from step {run.step}; the model of step {last} is kept as {kept}")
        folder.states.remove_after(run.step)


def _continue_loss_scale(run: Run, scale: object) -> None:
    if run.loss_scale is not None and scale is not None:
        run.loss_scale = scale  # type: ignore[assignment]


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"

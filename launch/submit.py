"""``python -m launch submit PIPELINE.yaml``: one Slurm job a stage, each waiting for the one before.

Stages of the same runs wait run by run (aftercorr), the report for all. Everything is checked before the first job is
submitted.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.frozen import freeze
from launch.pipeline import Options, Pipeline, PlannedRun, plan_runs, read_pipeline
from launch.slurm_queue import SUBMITTED, queued_jobs
from pretrain.runtime.command_line import CommandLine
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import FROZEN
from pretrain.training.run_folder import check_run_folder

_MODULES = {"pretrain": "pretrain", "finetune": "finetune", "probe": "probes"}
_DEFAULTS: Options = {"signal": "USR1@120", "requeue": True, "open-mode": "append"}


@dataclass(frozen=True)
class SlurmJob:
    """A job for Slurm, of one task or an array.

    Attributes:
        stage: ``pretrain``, ``finetune`` or ``probe``.
        folders: Run folder of each task of the array, or folder of the report.
        script: What sbatch gets.
        after: The job before and how this one waits for it.
    """

    stage: str
    folders: tuple[Path, ...]
    script: str
    after: tuple[str, str] | None


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch submit``."""
    parser = CommandLine("launch submit", __doc__)
    parser.add_argument("pipeline", metavar="PIPELINE.yaml", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print the scripts, start nothing, write nothing")
    parser.add_argument("--refreeze", action="store_true", help="replace code and configs that are frozen already")
    options = parser.read(argv)
    pipeline = read_pipeline(options.pipeline)
    runs = plan_runs(pipeline)
    for run in (run for stage in runs.values() for run in stage):
        check_run_folder(run.config)
    jobs = plan_jobs(pipeline, runs)
    if options.dry_run:
        for job in jobs:
            wait = f" --dependency={job.after[1]}:JOB_OF_{job.after[0].upper()}" if job.after else ""
            print(f"# ---- sbatch{wait} {_script_path(pipeline, job)}\n{job.script}")
        return 0
    _refuse_second(pipeline)
    for run in (run for stage in runs.values() for run in stage):
        if not freeze(run.folder, run.text, again=options.refreeze):
            print(f"{run.folder}: goes on with the code of its first submission (--refreeze takes that of now)")
    submit(pipeline, jobs)
    return 0


def plan_jobs(pipeline: Pipeline, runs: dict[str, list[PlannedRun]]) -> list[SlurmJob]:
    """The jobs in their order.

    Raises:
        DiptychError: The probe's arguments have a problem.
    """
    jobs: list[SlurmJob] = []
    for stage, given in pipeline.training().items():
        folders = tuple(run.folder.absolute() for run in runs[stage])
        after = (jobs[-1].stage, "afterok" if len(folders) == 1 else "aftercorr") if jobs else None
        body = [f"runs=({shlex.join(map(str, folders))})", "run=${runs[${SLURM_ARRAY_TASK_ID:-0}]}"]
        body += [f'export DIPTYCH_ROOT="$run/{FROZEN}/code"', f'set -- "$run/{FROZEN}/config.yaml"']
        jobs.append(SlurmJob(stage, folders, _script(pipeline, stage, given.sbatch, body, len(folders)), after))
    if probe := pipeline.probe:
        of = probe.of or (jobs[-1].stage,)
        models = []
        for stage in of:
            for run in runs[stage]:
                name = "-".join(filter(None, [stage if len(of) > 1 else "", run.name])) or stage
                models.append(f"{name}={run.folder.absolute() / 'export'}")
        out = pipeline.folder.absolute() / "probe"
        arguments = [*models, "--out", str(out), *probe.arguments]
        _check_probe(arguments)
        code = runs[of[-1]][0].folder.absolute() / FROZEN / "code"
        body = [f"export DIPTYCH_ROOT={shlex.quote(str(code))}", f"set -- {shlex.join(arguments)}"]
        jobs.append(
            SlurmJob("probe", (out,), _script(pipeline, "probe", probe.sbatch, body, 1), (jobs[-1].stage, "afterok"))
        )
    return jobs


def submit(pipeline: Pipeline, jobs: Sequence[SlurmJob]) -> None:
    """Submits the jobs and prints their numbers; if one is refused, those before it are cancelled.

    Raises:
        DiptychError: sbatch refuses a job, or is not there.
    """
    if shutil.which("sbatch") is None:
        raise DiptychError("sbatch: is not on the PATH; submit on a machine of a Slurm cluster, or look at --dry-run")
    # A submission from within a job must not pass on that job's rank and step.
    environment = {name: value for name, value in os.environ.items() if not _of_a_job(name)}
    numbers: dict[str, str] = {}
    for job in jobs:
        path = _script_path(pipeline, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.script, encoding="utf-8")
        command = ["sbatch", "--parsable"]
        if job.after:
            command += [f"--dependency={job.after[1]}:{numbers[job.after[0]]}", "--kill-on-invalid-dep=yes"]
        done = subprocess.run([*command, str(path)], env=environment, capture_output=True, text=True)
        if done.returncode:
            if numbers:
                subprocess.run(["scancel", *numbers.values()], env=environment)
            raise DiptychError(f"{path}: sbatch refuses it, no job was left: {' '.join(done.stderr.split())}")
        numbers[job.stage] = done.stdout.strip().split(";")[0]
    record = [
        {"stage": job.stage, "job": numbers[job.stage], "folders": [str(folder.absolute()) for folder in job.folders]}
        for job in jobs
    ]
    (pipeline.folder / SUBMITTED / "jobs.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for job in jobs:
        wait = f", {job.after[1]} {numbers[job.after[0]]}" if job.after else ""
        print(f"{job.stage}: job {numbers[job.stage]}{wait}: {' '.join(map(str, job.folders))}")


def _script(pipeline: Pipeline, stage: str, options: Options, body: Sequence[str], tasks: int) -> str:
    given = _DEFAULTS | {"job-name": f"{pipeline.folder.name}-{stage}"} | pipeline.sbatch | options
    output = pipeline.folder.absolute() / SUBMITTED / f"{stage}-{'%A_%a' if tasks > 1 else '%j'}.out"
    given |= {"output": str(output)}
    if tasks > 1:
        given |= {"array": f"0-{tasks - 1}" + (f"%{pipeline.at_once}" if pipeline.at_once else "")}
    lines = ["#!/bin/bash"]
    lines += [_directive(name, value) for name, value in given.items() if value is not False]
    lines += [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in pipeline.environment.items()]
    lines += [*body, f"module={_MODULES[stage]}", '. "$DIPTYCH_ROOT/launch/slurm/job.sh"']
    return "\n".join(lines) + "\n"


def _directive(name: str, value: str | bool) -> str:
    return f"#SBATCH --{name}" if isinstance(value, bool) else f"#SBATCH --{name}={shlex.quote(value)}"


def _script_path(pipeline: Pipeline, job: SlurmJob) -> Path:
    return pipeline.folder / SUBMITTED / f"{job.stage}.sbatch"


def _check_probe(arguments: Sequence[str]) -> None:
    from probes.arguments import read_arguments

    try:
        read_arguments(arguments, "")
    except DiptychError as error:
        raise DiptychError(f"probe.arguments: {error}") from None


def _refuse_second(pipeline: Pipeline) -> None:
    """Refuses a pipeline that is in the queue already."""
    record = pipeline.folder / SUBMITTED / "jobs.json"
    if not record.is_file():
        return
    earlier = {str(job["job"]) for job in json.loads(record.read_text(encoding="utf-8"))}
    if active := sorted({job.number for job in queued_jobs() if job.active} & earlier):
        raise DiptychError(f"{pipeline.folder}: is in the queue already as job {', '.join(active)}; scancel it first")


def _of_a_job(name: str) -> bool:
    return name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS")

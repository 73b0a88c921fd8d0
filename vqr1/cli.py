"""The command line: ``vqr1 train key=value ...``. Each command imports what it needs and no more."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from omegaconf import DictConfig

    from vqr1.config import Config

    Start = Callable[..., None]  # begins a run, as vqr1.launching.start does

USAGE = """usage: vqr1 COMMAND ...

  train     train a policy by reinforcement learning to rank: vqr1 train experiment=demo seed=0
            (-m sweeps: vqr1 train -m experiment=demo rollout.k=4,6 seed=0,1; --cfg job shows the configuration)
  plan      what a run would need on machines that are not here: vqr1 plan experiment=kadid10k plan.gpus=8 plan.nodes=2
  data      which datasets there are, whether one is whole and sound, what it looks like: vqr1 data check kadid10k
  doctor    what this machine has and lacks for training, with remedies: vqr1 doctor experiment=kadid10k
  rate      a score for each photo, or each photo of a folder: vqr1 rate photo.jpg --model runs/NAME
  evaluate  rate every picture of some datasets, then print the table: vqr1 evaluate model=runs/NAME data=[bid,clive]
  ask       which of two pictures is better, and questions with options: vqr1 ask 2afc --data bapps --model runs/NAME
  table     print the table from result folders alone, or from other models' scores: vqr1 table RESULT ... --latex
  compare   test two results on the same pictures against each other: vqr1 compare RESULT RESULT
  calibration  is the std of a result the error, its probability of a pair a frequency: vqr1 calibration RESULT
  report    one page on runs, or on a sweep, that opens from disk: vqr1 report runs/NAME
  export    a run's weights as a folder for transformers and vLLM, without vqr1: vqr1 export runs/NAME FOLDER
  dashboard make or renew the wandb workspace of a project: vqr1 dashboard ENTITY/PROJECT
  stopped   for job scripts, exit code 75 if a signal has stopped a run: torchrun ... || vqr1 stopped runs/NAME

The datasets are in --root FOLDER, which every command that reads them takes, else in VQR1_DATA, else in data.
vqr1 COMMAND --help says more of a command, vqr1 --version which release this is.
"""


GOES_ON = {"evaluate": "the same command goes on"}  # what is told after Ctrl-C where nothing nearer is known


def quiet_environment() -> None:
    """Nothing leaves the machine unasked, and the tokenizers do not fork threads."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # c10d's stacks where a store has ended with its rank


def train(start: Start | None = None) -> None:
    from vqr1.command_words import train_words
    from vqr1.config_checks import from_hydra
    from vqr1.launching import start as plain_start
    from vqr1.prerequisites import say_where_caches_are
    from vqr1.standard_streams import outlast_stdout
    from vqr1.sweep import Job, Sweep, set_name

    outlast_stdout()
    say_where_caches_are()
    begin = start or plain_start
    sweep = Sweep()

    def words(given: Sequence[str]) -> list[str]:
        # Argparse, which Hydra uses, takes no option between settings.
        made = sorted(train_words(given), key=lambda word: word not in ("-m", "--multirun"))
        set_name(made)
        sweep.words = made
        return made

    def run_job(composed: DictConfig) -> Job:
        with sweep.job(str(composed.runs)):
            begin(from_hydra(composed), sweep=sweep)
        return sweep.jobs[-1]

    with sweep:
        _of_train("train", words, begin, run_job)


def plan() -> None:
    """The words of train, plan.SETTING=VALUE, and --json FILE."""
    from vqr1.command_options import path, write_json
    from vqr1.command_words import one_run_words
    from vqr1.errors import show
    from vqr1.plan import as_plain, make_plan, plan_words, text

    asked: dict[str, Any] = {}

    def words(given: Sequence[str]) -> list[str]:
        asked["settings"], asked["json"], asked["words"] = plan_words(given)
        return one_run_words(asked["words"])

    def run(config: Config) -> None:
        made = make_plan(config, asked["settings"])
        show(text(made, asked["words"]), end="")
        if asked["json"]:
            write_json(path(asked["json"]), as_plain(made, asked["words"]))

    _of_train("plan", words, run)


def doctor() -> None:
    from vqr1.command_words import one_run_words
    from vqr1.doctor.command import doctor
    from vqr1.errors import UserError

    json = "--json" in sys.argv
    given = [word for word in sys.argv[1:] if word != "--json"]
    asked = any("=" in word and not word.startswith("--root") for word in given)

    def words(_: Sequence[str]) -> list[str]:
        if {"-m", "--multirun"} & set(given):
            raise UserError("-m: the doctor looks at one run; leave it out, and give one value of each setting")
        return one_run_words(given if asked else [*given, "experiment=demo"])  # make train's, where none is named

    _of_train("doctor", words, lambda config: sys.exit(doctor(config, " ".join(given) if asked else None, json)))


def _of_train(command: str, words: Any, run: Callable[[Config], None], run_job: Any = None) -> None:
    """:func:`run_hydra` with the settings of ``vqr1 train``."""
    from vqr1.config import register
    from vqr1.config_checks import from_hydra
    from vqr1.demo.specs import register_demonstration
    from vqr1.packaged import packaged

    register()
    register_demonstration()
    run_hydra(command, packaged("conf"), words, lambda composed: run(from_hydra(composed)), run_job, name="train")


def evaluate() -> None:
    from vqr1.command_words import evaluate_words
    from vqr1.demo.specs import register_demonstration
    from vqr1.packaged import packaged
    from vqr1.scoring import settings as schema

    schema.register()
    register_demonstration()

    def run(composed: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        from vqr1.sharing import start_ranks

        config = schema.from_hydra(composed)
        words = list(HydraConfig.get().overrides.task)
        code = start_ranks("evaluate", words, "gpus=", config.gpus, config.tensor_parallel)
        if code is not None:
            sys.exit(code)
        from vqr1.scoring.evaluate import evaluate

        evaluate(config)

    run_hydra("evaluate", packaged("conf") / "evaluate", evaluate_words, run)


def table() -> None:
    from vqr1.cli_results import table

    report_user_errors("table", lambda: table(sys.argv[1:]))


def compare() -> None:
    from vqr1.cli_results import compare

    report_user_errors("compare", lambda: compare(sys.argv[1:]))


def calibration() -> None:
    from vqr1.cli_results import calibration

    report_user_errors("calibration", lambda: calibration(sys.argv[1:]))


def data() -> None:
    def run() -> None:
        from vqr1.data.command import run
        from vqr1.demo.specs import register_demonstration

        register_demonstration()
        sys.exit(run(sys.argv[1:]))

    report_user_errors("data", run)


def rate() -> None:
    from vqr1.rating.command import run

    report_user_errors("rate", lambda: sys.exit(run(sys.argv[1:])))


def ask() -> None:
    def run() -> None:
        from vqr1.asking.command import run
        from vqr1.demo.specs import register_demonstration

        register_demonstration()
        sys.exit(run(sys.argv[1:]))

    report_user_errors("ask", run)


def stopped() -> None:
    from vqr1.command_options import Parser, path

    parser = Parser(
        "vqr1 stopped",
        description="Ends with exit code 75 if a signal has stopped the run, which the same command goes on with, and "
        "with 1 if not. It is told once. For job scripts, behind launchers that turn every exit code into 1: "
        "torchrun ... || vqr1 stopped runs/NAME",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="the run's folder")
    asked = parser.parse_args()

    def run() -> None:
        from vqr1.child_process import STOPPED
        from vqr1.errors import show
        from vqr1.training.run_folder import take_stopped

        signal = take_stopped(asked.run)
        show(f"{asked.run}: " + (f"stopped by {signal}" if signal else "not stopped by a signal"), file=sys.stderr)
        sys.exit(STOPPED if signal else 1)

    report_user_errors("stopped", run)


def report() -> None:
    from vqr1.report.command import run

    report_user_errors("report", lambda: run(sys.argv[1:]))


def export() -> None:
    from vqr1.export.command import run

    report_user_errors("export", lambda: run(sys.argv[1:]))


def dashboard() -> None:
    from vqr1.dashboard import dashboard

    report_user_errors("dashboard", lambda: dashboard(sys.argv[1:]))


def report_user_errors(command: str, run: Callable[[], None]) -> None:
    """What the user can put right is one message and exit code 2. A defect keeps its stack, with Python's exit code 1.

    So is what goes wrong with a file or a disk, which no program can rule out. Where nobody reads the output any more,
    as behind ``| head``, the command ends with the code of SIGPIPE.
    Where memory ran out, the settings that lower the need stand below the stack. Ctrl-C is one line and exit code 130.
    """
    from vqr1.child_process import INTERRUPTED, STOPPED, exit_code, report_failure, speaker
    from vqr1.errors import OtherRankError, UserError, memory_advice, show

    try:
        _told_of_files(run)
    except UserError as error:
        if not isinstance(error, OtherRankError):  # that other reports
            report_failure(error.exit_code, str(error))
        if os.environ.get("VQR1_TRACEBACK"):
            raise
        if error.exit_code != STOPPED:
            where = "" if isinstance(error, OtherRankError) else "\n(VQR1_TRACEBACK=1 shows where)"
            show(f"{speaker(command)}: {error}{where}", file=sys.stderr)
        elif os.environ.get("RANK", "0") == "0":  # all ranks stop together
            show(f"vqr1 {command}: {error}", file=sys.stderr)
        sys.exit(exit_code(error.exit_code))
    except KeyboardInterrupt as stop:
        how = str(stop) or GOES_ON.get(command, "")
        report_failure(INTERRUPTED, f"interrupted{how and '; ' + how}")
        if os.environ.get("RANK", "0") == "0":
            show(f"\nvqr1 {command}: interrupted{how and '; ' + how}", file=sys.stderr)
        sys.exit(exit_code(INTERRUPTED))
    except Exception as error:
        report_failure(1, f"{type(error).__name__}: {error}")
        advice = memory_advice(command, error)
        if advice and advice not in getattr(error, "__notes__", ()):
            error.add_note(advice)
        raise


def _told_of_files(run: Callable[[], None]) -> None:
    """Make what goes wrong with a file or a disk a UserError, and end where nobody reads the output any more."""
    from vqr1.errors import UserError, file_trouble
    from vqr1.standard_streams import stdout_is_written

    try:
        try:
            run()
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and not stdout_is_written():
            if isinstance(error, BrokenPipeError):
                sys.exit(128 + 13)
            raise UserError(f"stdout: {error.strerror}") from error
        unnumbered = isinstance(error, OSError) and error.errno is None  # a library's words, or a defect
        trouble = None if unnumbered else file_trouble(error, "the working folder")
        if trouble is None:
            raise
        raise UserError(trouble) from error


def run_hydra(
    command: str,
    conf: Path,
    words: Callable[[Sequence[str]], list[str]],
    run: Callable[[DictConfig], None],
    run_job: Callable[[DictConfig], Any] | None = None,
    name: str | None = None,
) -> None:
    """Compose what the words of the command line say and ``run`` it, or ``run_job`` each job of a sweep.

    ``name``: of the file in ``conf``, where it is not the command's. What Hydra refuses is the user's error too.
    ``words`` turns the command line into words that Hydra knows.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, OverrideParseException
    from hydra.types import RunMode

    from vqr1.command_words import missing_choice
    from vqr1.errors import UserError

    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it Hydra shortens stacks and turns every exception into exit code 1
    composing = True

    @hydra.main(config_path=str(conf.resolve()), config_name=name or command, version_base="1.3")
    def main(composed: DictConfig) -> Any:
        nonlocal composing
        composing = False
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return (run_job or run)(composed)
        return report_user_errors(command, lambda: run(composed))

    def compose_and_run() -> None:
        try:
            sys.argv[1:] = words(sys.argv[1:])
            main()
        except (HydraException, ValueError, OSError) as error:
            if not isinstance(error, HydraException) and not composing:
                raise
            why = f"\n{error.__cause__}" if error.__cause__ and str(error.__cause__) not in str(error) else ""
            word = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
            raise UserError(missing_choice(str(error)) or f"{word}{error}{why}") from error

    report_user_errors(command, compose_and_run)


COMMANDS: dict[str, Callable[[], None]] = {
    "train": train,
    "plan": plan,
    "data": data,
    "doctor": doctor,
    "rate": rate,
    "ask": ask,
    "evaluate": evaluate,
    "table": table,
    "compare": compare,
    "calibration": calibration,
    "report": report,
    "export": export,
    "dashboard": dashboard,
    "stopped": stopped,
}


def main(start: Start | None = None) -> None:
    """Entry point of the console script. ``start`` begins a run in place of :func:`vqr1.launching.start`."""
    from vqr1.errors import show_stack
    from vqr1.standard_streams import open_streams, outlast_stderr

    open_streams()
    outlast_stderr()
    sys.excepthook = show_stack
    report_user_errors(sys.argv[1] if len(sys.argv) > 1 else "help", lambda: _main(start))


def _main(start: Start | None) -> None:
    from vqr1.errors import printable, show

    words = sys.argv[1:]
    if words[:1] == ["help"]:  # vqr1 help COMMAND
        words = sys.argv[1:] = [*words[1:], "--help"]
    if words in ([], ["-h"], ["--help"]):
        show(USAGE, end="")
        sys.exit(0)
    if words in (["--version"], ["-V"]):
        from vqr1 import __version__

        show(f"vqr1 {__version__}")
        sys.exit(0)
    if words[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(words[0], COMMANDS, n=1)
        show(f"vqr1: no command is called {words[0]}{f'; did you mean {near[0]}?' if near else ''}\n", file=sys.stderr)
        show(USAGE, end="", file=sys.stderr)
        sys.exit(2)
    option = next((word for word in words if word[0:1] == "-" and not word.partition("=")[0].isprintable()), None)
    if option:  # Hydra would repeat it as it is
        show(f"vqr1: no option is called {printable(option)}", file=sys.stderr)
        sys.exit(2)
    from vqr1.child_process import end_with_parent

    end_with_parent()
    quiet_environment()
    command = sys.argv.pop(1)
    if command in ("train", "evaluate", "plan", "doctor") and {"-h", "--help"} & set(sys.argv[1:]):
        from vqr1.help_text import DOCTOR, EVALUATE, PLAN, train_help

        show({"evaluate": EVALUATE, "plan": PLAN, "doctor": DOCTOR}.get(command) or train_help(), end="")
        sys.exit(0)
    if command == "train":
        train(start)
    else:
        COMMANDS[command]()


if __name__ == "__main__":  # python -m vqr1.cli
    main()

"""The command line. The only file that knows Typer.

A command is a table of options and a function that gets their values by name. The function is one call into another file, so that
tests reach that without Typer. `main` turns errors into one `error:` line, a `hint:` and the documented exit code.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import llmpipe
from llmpipe.cli import inspect as inspection
from llmpipe.cli import recipes as recipe_files
from llmpipe.cli.failures import describe_failure, leave_closed_pipe
from llmpipe.cli.stage_command import Options, run_command, settings_table, stage_command
from llmpipe.core.console import Console
from llmpipe.core.errors import EXIT_CODES, UserError, did_you_mean
from llmpipe.core.ranks import current_ranks, is_first_to_say, signature
from llmpipe.stages import STAGES, schemas

if TYPE_CHECKING:
    from llmpipe.inference.sampling import Sampling

PIPELINE, USE, INSPECT, SET_UP = "Pipeline", "Use a model", "Inspect", "Set up"


class _GroupedHelp(TyperGroup):
    """Lists commands under headings, as `rich_help_panel` does where Rich is on."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            rows.setdefault(command.rich_help_panel, []).append((name, command.short_help))
        width = max(len(name) for group in rows.values() for name, _ in group)
        for heading, group in rows.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in group])


app = typer.Typer(
    cls=_GroupedHelp,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=(
        "From a crawl of the web to an assistant you can talk to. Each stage reads what the one "
        "before it wrote.\n\n\b\nExamples:\n"
        "  llmpipe run                       # recipe `tiny`: a few minutes on 2 cores, no GPU\n"
        "  llmpipe chat runs/tiny/sft\n"
        "  llmpipe data crawl/*.warc.gz --out runs/mine/corpus"
    ),
)

TWO_WORD_COMMANDS = ("bench infer", "data explain", "data train-classifier")
"""`data` itself takes paths, so these are commands of their own with a space in the name."""


# ----------------------------------------------------------------------------------------------
# How commands are made


class _Session:
    """What `main` needs to know of the command that ran: how it talks, and whether tracebacks are wanted."""

    console = Console(enabled=current_ranks().rank == 0)
    debug = bool(os.environ.get("LLMPIPE_DEBUG"))


def _console(json: bool, quiet: bool, verbose: bool, debug: bool) -> Console:
    _Session.debug |= debug
    _Session.console = Console(quiet, verbose or debug, json, enabled=current_ranks().rank == 0)
    return _Session.console


def option(
    name: str, kind: Any, default: Any, help: str, *flags: str, **more: Any
) -> inspect.Parameter:
    """An option: its name in Python, its type, default and help; `flags` where they do not follow from the name.

    Those that are on or off have no `--no-…`, unless they are on by default.
    """
    if kind is bool and default is False and not flags:
        flags = (f"--{name.replace('_', '-')}",)
    return _parameter(name, kind, default, typer.Option(*flags, help=help, **more))


def argument(
    name: str, kind: Any, default: Any, help: str | None, **more: Any
) -> inspect.Parameter:
    """An argument; without a default (`...`) it must be given."""
    return _parameter(name, kind, default, typer.Argument(help=help, **more))


def _parameter(name: str, kind: Any, default: Any, how: Any) -> inspect.Parameter:
    kind = kind | None if default is None else kind
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, how]
    )


TALK = [
    option("json", bool, False, "One JSON document on stdout."),
    option("quiet", bool, False, "Only the result and errors.", "--quiet", "-q"),
    option("verbose", bool, False, "Also debug lines.", "--verbose", "-v"),
    option("debug", bool, False, "Show the traceback of an error."),
]
"""Options of every command, from which the console is made."""


def _add(body: Callable[..., None], options: Sequence[inspect.Parameter], **shown: Any) -> None:
    """Add a command that calls `body` with a console and these options; Typer reads the signature."""

    def command(**given: Any) -> None:
        console = _console(**{parameter.name: given.pop(parameter.name) for parameter in TALK})
        body(console=console, **given)

    command.__signature__ = inspect.Signature([*options, *TALK])  # type: ignore[attr-defined]
    app.command(**shown)(command)


def command(
    panel: str, name: str, examples: Sequence[str], *options: inspect.Parameter
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command; its docstring's first line is the help, and up to the colon what lists say of it."""

    def add(body: Callable[..., None]) -> Callable[..., None]:
        text = (body.__doc__ or "").partition("\n")[0]
        word = "Example" if len(examples) == 1 else "Examples"
        epilog = f"{word}:  {'    |    '.join(examples)}" if examples else None
        short = text.partition(":")[0].removesuffix(".")
        shown = {"short_help": short, "epilog": epilog, "rich_help_panel": panel}
        _add(body, options, name=name, help=text, **shown)
        return body

    return add


TOOLS = "What may be called: python, search, both with a comma, or none"
DEVICE = option("device", str, "auto", "auto, cpu or cuda.")
SAMPLING = (
    option("max_tokens", int, 200, "Longest text to write, in tokens.", min=1),
    option("top_k", int, None, "Choose among the k likeliest tokens.", min=1),
    option("top_p", float, None, "Choose among the likeliest that have this share.", min=0, max=1),
    option("seed", int, 1, "The same seed gives the same text."),
)


def _temperature(default: float) -> inspect.Parameter:
    text = "0 always takes the likeliest token."
    return option("temperature", float, default, text, min=0.0)


def _model(default: str | None = None) -> inspect.Parameter:
    return argument("model", Path, Path(default) if default else ..., "Folder of a model.")


# ----------------------------------------------------------------------------------------------
# Pipeline


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmpipe {llmpipe.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


ARGUMENTS = argument("arguments", list[str], None, None, metavar="[RECIPE] [INPUTS]...")
FROM, SETTING = "Read an input from another folder; repeatable.", "KEY=VALUE"
EXECUTOR = "Where `data` and `tokenize` run their units: local, ray, ray:ADDRESS or slurm."
OPTIONS = (
    option("set_", list[str], None, "Override a setting; repeatable.", "--set", metavar=SETTING),
    option("from_", list[str], None, FROM, "--from", metavar="NAME=PATH"),
    option("name", str, None, "Run folder under runs/; the recipe's name otherwise."),
    option("out", Path, None, "Folder to write; runs/NAME, or in it, otherwise."),
    option("runs", Path, Path("runs"), "Folder that holds the runs."),
    option("force", bool, False, "Replace what was made with other settings or inputs."),
    option("fresh", bool, False, "Discard unfinished work and that of earlier builds; begin anew."),
    option("dry_run", bool, False, "Show what would be read, written and needed; do nothing."),
    option("workers", int, None, "Processes to use; never changes the result.", min=1),
    DEVICE,
    option("log", list[str], None, "Also log to wandb or tensorboard; repeatable."),
    option("executor", str, "local", EXECUTOR),
)
"""The options of a stage's command and of `run`: the fields of `Options`."""

STAGE_OPTIONS = {
    "depth": option("depth", int, None, "Blocks; all else follows from them.", min=1),
    "profile": option("profile", bool, None, "Write a trace of three steps.", "--profile"),
}
"""Settings that are options of their stage's command too, where its spec names them in `options`."""


def _options(given: Mapping[str, Any]) -> Options:
    """What Typer read; its lists are our tuples."""
    values = {name: value for name, value in given.items() if value is not None}
    tuples: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Options(**tuples)


@command(
    PIPELINE,
    "run",
    ["llmpipe run", "llmpipe run configs/novels.toml", "llmpipe run tiny --dry-run --json"],
    argument("arguments", list[str], None, "A path or name; `tiny` otherwise.", metavar="RECIPE"),
    *(one for one in OPTIONS if one.name != "from_"),
)
def run(console: Console, **given: Any) -> None:
    """Every stage of a recipe in order: what is up to date is skipped, what was interrupted is resumed."""
    run_command(_options(given), console)


def _add_stage(stage: str) -> None:
    spec = STAGES[stage]

    def body(console: Console, **given: Any) -> None:
        own = {key: given.pop(key) for key in spec.options}
        said = [f"{stage}.{k}={str(v).lower()}" for k, v in own.items() if v is not None]
        given["set_"] = [*said, *(given["set_"] or ())]
        stage_command(stage, _options(given), console)

    examples = "\n".join(["\b", "Examples:", *(f"  {example}" for example in spec.examples)])
    wants_help = len(sys.argv) > 2 and sys.argv[1] == stage and "--help" in sys.argv
    _add(
        body,
        [ARGUMENTS, *(STAGE_OPTIONS[key] for key in spec.options), *OPTIONS],
        name=stage,
        help=f"{spec.summary}.\n\n{examples}",
        short_help=spec.summary,
        epilog=_settings_help(stage) if wants_help else None,
        rich_help_panel=PIPELINE,
    )


def _settings_help(stage: str) -> str:
    """The end of a stage's help: its settings, which `--set` changes."""
    lines = ["\b", f"Settings (change with --set {stage}.KEY=VALUE, or in the recipe's [{stage}]):"]
    for key, default, meaning in settings_table(STAGES[stage].config):
        lines.append(f"  {key} = {default}")
        if meaning:
            lines.append(f"      {meaning}")
    return "\n".join(lines)


for _name in STAGES:
    _add_stage(_name)

# ----------------------------------------------------------------------------------------------
# Use a model


def _take_sampling(given: dict[str, Any]) -> Sampling:
    from llmpipe.inference.sampling import Sampling

    names = ("temperature", *(one.name for one in SAMPLING))
    return Sampling(**{name: given.pop(name) for name in names})


@command(
    USE,
    "sample",
    ["llmpipe sample runs/tiny/base --prompt 'Return the' --temperature 0.8 --n 3"],
    _model("runs/tiny/base"),
    option("prompt", str, "", "Text to go on from.", "--prompt", "-p"),
    option("n", int, 1, "How many samples.", "-n", "--n", min=1),
    _temperature(1.0),
    *SAMPLING,
    DEVICE,
)
def sample(console: Console, model: Path, **given: Any) -> None:
    """Let a model continue a text, streaming."""
    from llmpipe.apps.sample import run_sample

    run_sample(model, sampling=_take_sampling(given), console=console, **given)


@command(
    USE,
    "chat",
    ["llmpipe chat runs/tiny/sft", "llmpipe chat runs/tiny/sft -p 'What is 37 + 45?'"],
    _model("runs/tiny/sft"),
    option("prompt", str, None, "Ask this, print the answer, leave.", "--prompt", "-p"),
    option("system", str, None, "System message."),
    _temperature(0.0),
    *SAMPLING,
    option("tools", str, None, f"{TOOLS}; else python, and search where there is a corpus."),
    option("corpus", Path, None, "Corpus, or run, that search reads."),
    option("search_url", str, None, "HTTP service that search asks instead of a corpus."),
    option("search_host", list[str], None, "Host it may be on, besides loopback; repeatable."),
    option("unsafe_tools", bool, False, "Run the assistant's programs without a sandbox."),
    option("think", str, "show", "Thoughts: show, hide or off."),
    option("max_thought", int, None, "Tokens a thought may have.", min=1),
    option("show_tokens", bool, False, "Show the tokens of each turn.", "--tokens"),
    DEVICE,
)
def chat(
    console: Console,
    model: Path,
    tools: str | None,
    corpus: Path | None,
    search_url: str | None,
    search_host: list[str] | None,
    unsafe_tools: bool,
    think: str,
    **given: Any,
) -> None:
    """Talk to a model in the terminal."""
    from llmpipe.apps.chat.commands import think_mode
    from llmpipe.apps.chat.session import ToolOptions, run_chat

    asked = ToolOptions(tools, corpus, search_url, tuple(search_host or ()), unsafe_tools)
    given |= {"sampling": _take_sampling(given), "tools": asked, "think": think_mode(think)}
    run_chat(model, console=console, **given)


@command(
    USE,
    "serve",
    ["llmpipe serve runs/tiny/sft --port 8000", "llmpipe serve runs/tiny/sft --tools none"],
    _model("runs/tiny/sft"),
    option("host", str, "127.0.0.1", "Another address than loopback needs --key."),
    option("port", int, 8000, "0 takes a free one.", min=0, max=65535),
    option("key", str, None, "Clients must send it as a bearer token.", envvar="LLMPIPE_API_KEY"),
    option("allow_host", list[str], None, "A further Host header to accept; repeatable."),
    option("name", str, None, "Name of the model in the API."),
    option("tools", str, None, f"{TOOLS}; else python on loopback, none elsewhere."),
    option(
        "preferences", Path, None, "File for orders of answers; else the run's preferences.jsonl."
    ),
    option("max_batch", int, None, "Requests worked on at the same time; 16 here.", min=1),
    option("max_len", int, None, "Tokens of prompt and answer; the model's otherwise.", min=2),
    option("backend", str, "llmpipe", "llmpipe, or vllm: an installed vLLM takes over."),
    DEVICE,
)
def serve(console: Console, model: Path, allow_host: list[str] | None, **given: Any) -> None:
    """Serve a model over an OpenAI-compatible API, with a chat page: on this machine, unless told otherwise."""
    from llmpipe.apps.serve.options import ServeOptions, run_serve

    options = ServeOptions(folder=model, allowed_hosts=tuple(allow_host or ()), **given)
    run_serve(options, console)


@command(
    USE,
    "bench infer",
    ["llmpipe bench infer runs/tiny/sft", "llmpipe bench infer runs/tiny/sft --batch 1,8 --json"],
    _model("runs/tiny/sft"),
    option("batch", str, "1,8,64,256", "Numbers of sequences to try, with commas."),
    option("n_prompt", int, 32, "Tokens of each prompt.", "--prompt-tokens", min=1),
    option("n_new", int, 32, "Tokens to write after each.", "--new-tokens", min=2),
    option("int8", bool, False, "Our matrices in 8 bits."),
    option("peers", bool, True, "Also run transformers, llama.cpp and vLLM where installed."),
    DEVICE,
)
def bench_infer(console: Console, model: Path, batch: str, **given: Any) -> None:
    """Measure how fast a model writes here, beside other engines: time to first token, tokens per second, share of memory speed."""
    from llmpipe.apps.bench_infer import parse_batches, run_bench_infer

    run_bench_infer(model, batches=parse_batches(batch), console=console, **given)


@command(
    USE,
    "export",
    [
        "llmpipe export runs/tiny/sft --out model --verify",
        "llmpipe export runs/tiny/sft --to gguf --out model-gguf",
    ],
    _model(),
    option("out", Path, ..., "Folder to make."),
    option("to", str, "hf", "hf, gguf or ollama."),
    option("dtype", str, "float32", "float32, float16, bfloat16 or (GGUF) q8_0."),
    option("verify", bool, False, "Reload it and compare log-probabilities."),
    option("name", str, None, "Name of the model; that of its run otherwise."),
    option("license", str, None, "SPDX name for the model card."),
)
def export(console: Console, model: Path, **given: Any) -> None:
    """Write a model for transformers, llama.cpp or Ollama: in its format, with a model card made from its run."""
    from llmpipe.export.export import export_model

    exported = export_model(model, console=console, **given)
    path = str(exported.folder)
    document = {"path": path, "bytes": exported.n_bytes, "checks": exported.checks}
    console.result(document, [*exported.checks, path])


@command(
    USE,
    "import",
    ["llmpipe import gpt2-folder --out runs/gpt2/base"],
    argument("folder", Path, ..., "Hugging Face folder, or a model's name there."),
    option("out", Path, ..., "Model folder to make."),
)
def import_(console: Console, folder: Path, out: Path) -> None:
    """Make a Hugging Face folder a model of llmpipe: one that sample, sft, eval and serve accept."""
    from llmpipe.export.import_model import import_model

    artifact = import_model(folder, out, console=console)
    console.result({"path": str(artifact.path), **artifact.manifest}, [str(artifact.path)])


@command(
    USE,
    "tokens",
    [
        "llmpipe tokens 'Hello world' --tokenizer runs/tiny/tokens",
        "llmpipe tokens 'low lower lowest' --explain",
        "llmpipe tokens --rows 0:4 --run runs/tiny/base",
    ],
    argument("texts", list[str], None, "Texts; standard input otherwise."),
    option("tokenizer", str, "", "Names or folders, with commas: ours, gpt2, cl100k_base, PATH."),
    option("explain", bool, False, "Walk through the first merges."),
    option("conversation", Path, None, "File of conversations: the first, and what is trained."),
    option("rows", str, None, "Rows FIRST:STOP of the training run that --run names."),
    option("run", Path, None, "Model of that run, finished or not, as in runs/NAME/base."),
    option("web", bool, False, "Serve a page on this machine instead."),
    option("port", int, 0, "Of the page; 0 takes a free one.", min=0, max=65535),
)
def tokens(
    console: Console,
    texts: list[str] | None,
    tokenizer: str,
    explain: bool,
    conversation: Path | None,
    rows: str | None,
    run: Path | None,
    web: bool,
    port: int,
) -> None:
    """See a text as tokens, in the terminal or a browser: pieces in color with their ids, tokenizers side by side."""
    names = tuple(name for name in tokenizer.split(",") if name)
    if rows is not None or run is not None:
        if rows is None or run is None:
            hint = "llmpipe tokens --rows 4096:4100 --run runs/NAME/base"
            raise UserError("`--rows` and `--run` need each other", hint)
        from llmpipe.apps.tokens.rows import run_rows

        run_rows(rows, run, console)
    elif web:
        from llmpipe.apps.serve.options import run_tokens_page

        run_tokens_page(names, port, console)
    elif conversation is not None:
        from llmpipe.apps.tokens.terminal import run_conversations

        run_conversations(conversation, names, console)
    else:
        from llmpipe.apps.tokens.terminal import run_tokens

        run_tokens(tuple(texts or ()), names, explain, console)


# ----------------------------------------------------------------------------------------------
# Inspect

PATH = argument("path", Path, ..., "An artifact, or a run folder.")


RUNS = argument("runs", Path, Path("runs"), "Folder that holds the runs.")
PATHS = argument("paths", list[Path], ..., "Artifacts or run folders.")
TARGET = option("out", Path, None, "File to write; .md for Markdown, else HTML.")
PAIR = (PATH.replace(name="a"), argument("b", Path, ..., "Another."))

command(INSPECT, "ls", [], RUNS)(inspection.ls)
command(INSPECT, "show", ["llmpipe show runs/tiny/base"], PATH)(inspection.show)
command(INSPECT, "diff", ["llmpipe diff runs/tiny runs/other"], *PAIR)(inspection.diff)
command(INSPECT, "verify", ["llmpipe verify runs/tiny"], PATHS)(inspection.verify_command)
command(INSPECT, "report", ["llmpipe report runs/tiny --out report.md"], PATH, TARGET)(
    inspection.report_command
)


@command(
    INSPECT,
    "data explain",
    ["llmpipe data explain http://pydoc.localhost/os.html --corpus runs/tiny/corpus"],
    argument("key", str, ..., "The document's address or id."),
    option("corpus", Path, Path("runs/tiny/corpus"), "Folder of the corpus."),
)
def data_explain(console: Console, key: str, corpus: Path) -> None:
    """Tell what became of one document, step by step."""
    from llmpipe.stages.data.explain import explain

    lines = explain(corpus, key, console)
    console.result(lines, lines)


# ----------------------------------------------------------------------------------------------
# Set up


@command(
    SET_UP,
    "data train-classifier",
    ["llmpipe data train-classifier --good books.jsonl --bad crawl.parquet --out quality.bin"],
    option("good", list[Path], ..., "Parquet, JSONL or text of what is wanted; repeatable."),
    option("bad", list[Path], ..., "The same of what is not; repeatable."),
    option("out", Path, ..., "File to write; the setting data.quality.model names it."),
    option("text_field", str, "text", "Column or key of the text."),
)
def train_classifier(console: Console, **given: Any) -> None:
    """Train the fastText quality classifier that a recipe can use: and score it on texts kept from it."""
    from llmpipe.stages.data.steps.quality import train_classifier

    result = dataclasses.asdict(train_classifier(**given))
    console.result(result, [f"{name:<18}{value}" for name, value in result.items()])


@command(
    SET_UP,
    "recipes",
    ["llmpipe recipes", "llmpipe recipes show tiny", "llmpipe recipes cp tiny mine.toml"],
    argument("action", str, "ls", "ls, show, cp or schema."),
    argument("name", str, None, "A recipe's name or path."),
    argument("target", Path, None, "For cp: the file to write."),
)
def recipes(console: Console, action: str, name: str | None, target: Path | None) -> None:
    """List, show and copy recipes; print their JSON schema."""
    match action, name, target:
        case "ls", None, None:
            recipe_files.list_recipes(console)
        case "show", str(), None:
            console.write(recipe_files.find_recipe(name).read_text(encoding="utf-8"))
        case "cp", str(), Path():
            recipe_files.copy_recipe(name, target, console)
        case "schema", None, None:
            console.document(recipe_files.recipe_schema(schemas()))
        case _:
            usage = "`ls`, `show NAME`, `cp NAME FILE` or `schema` is expected after `recipes`"
            raise UserError(usage, did_you_mean(action, ("ls", "show", "cp", "schema")))


@command(
    SET_UP,
    "doctor",
    [],
    option("sandbox", bool, False, "Attack the sandbox of the python tool, and say what held."),
)
def doctor(console: Console, sandbox: bool) -> None:
    """Check what this machine can do: versions, device, memory, disk, a short training run."""
    from llmpipe.cli.doctor import run_doctor, run_sandbox_doctor

    (run_sandbox_doctor if sandbox else run_doctor)(console)


# ----------------------------------------------------------------------------------------------
# Errors and exit codes


def main() -> None:
    """Run the command line and exit with a documented code."""
    # Threads of torch's OpenMP spin while they wait for each other. On a machine that does anything else that is ruinous:
    # the demo's training was measured 4 to 5 times as fast with sleeping threads on two busy cores. Read by libgomp when
    # torch is loaded, so it is set here; whoever sets it outside keeps their choice.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run_main())


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if " ".join(words[:2]) in TWO_WORD_COMMANDS:
        words[:2] = [" ".join(words[:2])]
    try:
        code = app(words, standalone_mode=False)
    except BrokenPipeError:
        leave_closed_pipe()
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of Typer's
            error.show()
            code = int(error.exit_code)
        else:
            code = _report(KeyboardInterrupt() if isinstance(error, typer.Abort) else error)
    code = code if isinstance(code, int) else 0
    assert code in EXIT_CODES, code
    return code


def _report(error: BaseException) -> int:
    message, hint, code = describe_failure(error)
    if _Session.debug:
        traceback.print_exception(error)
    if is_first_to_say(message, is_lasting=code in (2, 3, 4)):
        _Session.console.error(signature() + message, hint)
    return code

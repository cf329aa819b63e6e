"""The command line. The only file that knows Typer.

Every command's body is one call into another file, so that tests reach it without Typer; `main` turns errors into
one `error:` line, a `hint:` and the documented exit code.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import llmpipe
from llmpipe.cli.stage_command import (
    Options,
    load_schemas,
    load_spec,
    run_command,
    settings_table,
    stage_command,
)
from llmpipe.core.console import Console
from llmpipe.core.errors import EXIT_CODES, LlmpipeError
from llmpipe.core.ranks import current_ranks, is_first_to_say, signature
from llmpipe.stages import STAGES

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
# Options that several commands share

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also debug lines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; repeatable."),
]
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from", metavar="NAME=PATH", help="Read an input from another folder; repeatable."
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Run folder under runs/; the recipe's name otherwise.")
]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what was made with other settings or inputs.")
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Discard unfinished work, and what is kept of earlier builds, and begin anew.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be read, written and needed; do nothing.")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes to use; never changes the result.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Log = Annotated[
    list[str] | None, typer.Option("--log", help="Also log to wandb or tensorboard; repeatable.")
]
Executor = Annotated[
    str, typer.Option(help="Where `data` runs its units: local, ray, ray:ADDRESS or slurm.")
]
ModelFolder = Annotated[Path, typer.Argument(help="Folder of a model.")]

STAGE_OPTIONS: dict[str, Any] = {
    "depth": Annotated[
        int | None, typer.Option("--depth", min=1, help="Blocks; all else follows from them.")
    ],
    "profile": Annotated[
        bool | None, typer.Option("--profile", help="Write a trace of three steps.")
    ],
}
"""Settings that are options of their stage's command too, where its spec names them in `options`."""


class _Session:
    """What `main` needs to know of the command that ran: how it talks, and whether tracebacks are wanted."""

    console = Console(enabled=current_ranks().rank == 0)
    debug = bool(os.environ.get("LLMPIPE_DEBUG"))


def _console(
    json: bool = False, quiet: bool = False, verbose: bool = False, debug: bool = False
) -> Console:
    _Session.debug |= debug
    _Session.console = Console(quiet, verbose or debug, json, enabled=current_ranks().rank == 0)
    return _Session.console


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


@app.command(
    short_help="Every stage of a recipe; what is up to date is skipped",
    rich_help_panel=PIPELINE,
    epilog="Examples:  llmpipe run    |    llmpipe run configs/novels.toml    |    llmpipe run tiny --dry-run --json",
)
def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's path or name; `tiny` otherwise.")
    ] = None,
    set_: Set = None,
    name: Name = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME otherwise.")] = None,
    runs: Runs = Path("runs"),
    force: Force = False,
    fresh: Fresh = False,
    dry_run: DryRun = False,
    workers: Workers = None,
    device: Device = "auto",
    log: Log = None,
    executor: Executor = "local",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Every stage of a recipe in order; what is up to date is skipped, what was interrupted is resumed."""
    arguments = (recipe,) if recipe else ()
    options = Options(
        arguments,
        tuple(set_ or ()),
        (),
        name,
        out,
        runs,
        force,
        fresh,
        dry_run,
        workers,
        device,
        tuple(log or ()),
        executor,
    )
    run_command(options, _console(json, quiet, verbose, debug))


def _stage(stage: str) -> Callable[..., None]:
    def command(
        arguments: Annotated[
            list[str] | None, typer.Argument(metavar="[RECIPE] [INPUTS]...")
        ] = None,
        set_: Set = None,
        from_: From = None,
        name: Name = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder to write; runs/NAME/… otherwise.")
        ] = None,
        runs: Runs = Path("runs"),
        force: Force = False,
        fresh: Fresh = False,
        dry_run: DryRun = False,
        workers: Workers = None,
        device: Device = "auto",
        log: Log = None,
        executor: Executor = "local",
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
        debug: Debug = False,
        **own: object,
    ) -> None:
        said = [
            f"{stage}.{key}={str(value).lower()}" for key, value in own.items() if value is not None
        ]
        options = Options(
            tuple(arguments or ()),
            (*said, *(set_ or ())),
            tuple(from_ or ()),
            name,
            out,
            runs,
            force,
            fresh,
            dry_run,
            workers,
            device,
            tuple(log or ()),
            executor,
        )
        stage_command(stage, options, _console(json, quiet, verbose, debug))

    return _with_options(command, load_spec(stage).options)


def _with_options(command: Callable[..., None], keys: Sequence[str]) -> Callable[..., None]:
    """Give a command the options of its stage, in place of its `**own`; Typer reads the signature."""
    signature = inspect.signature(command, eval_str=True)
    shared = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
    own = [
        inspect.Parameter(key, shared[1].kind, default=None, annotation=STAGE_OPTIONS[key])
        for key in keys
    ]
    parameters = [shared[0], *own, *shared[1:]]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _stage_help(stage: str) -> str:
    """The end of a stage's help: its settings, which `--set` changes."""
    spec = load_spec(stage)
    lines = ["\b", f"Settings (change with --set {stage}.KEY=VALUE, or in the recipe's [{stage}]):"]
    for key, default, meaning in settings_table(spec.config):
        lines.append(f"  {key} = {default}")
        if meaning:
            lines.append(f"      {meaning}")
    return "\n".join(lines)


def _add_stages() -> None:
    for stage in STAGES:
        spec = load_spec(stage)
        examples = "\n".join(["\b", "Examples:", *(f"  {example}" for example in spec.examples)])
        wants_help = len(sys.argv) > 2 and sys.argv[1] == stage and "--help" in sys.argv
        epilog = _stage_help(stage) if wants_help else None
        help_text = f"{spec.summary}.\n\n{examples}"
        app.command(
            stage,
            help=help_text,
            short_help=spec.summary,
            epilog=epilog,
            rich_help_panel=PIPELINE,
        )(_stage(stage))


_add_stages()

# ----------------------------------------------------------------------------------------------
# Use a model


@app.command(
    short_help="Let a model continue a text",
    rich_help_panel=USE,
    epilog="Example:  llmpipe sample runs/tiny/base --prompt 'Return the' --temperature 0.8 --n 3",
)
def sample(
    model: ModelFolder = Path("runs/tiny/base"),
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to go on from.")] = "",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many samples.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 1,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let a model continue a text, streaming."""
    from llmpipe.apps.sample import run_sample
    from llmpipe.inference.sampling import Sampling

    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, max_tokens=max_tokens
    )
    run_sample(
        model,
        prompt=prompt,
        n=n,
        sampling=sampling,
        device=device,
        console=_console(json, quiet, False, debug),
    )


@app.command(
    short_help="Talk to a model in the terminal",
    rich_help_panel=USE,
    epilog="Examples:  llmpipe chat runs/tiny/sft    |    llmpipe chat runs/tiny/sft -p 'What is 37 + 45?'",
)
def chat(
    model: ModelFolder = Path("runs/tiny/sft"),
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the answer, leave.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1)] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    seed: Annotated[int, typer.Option()] = 1,
    tools: Annotated[
        str | None,
        typer.Option(
            help="What may be called: python, search, both with a comma, or none; the assistant is "
            "told of it. Otherwise python, and search where the run has a corpus."
        ),
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Corpus, or run, that search reads.")] = None,
    search_url: Annotated[
        str | None, typer.Option(help="HTTP service that search asks instead of a corpus.")
    ] = None,
    search_host: Annotated[
        list[str] | None, typer.Option(help="Host it may be on, besides loopback; repeatable.")
    ] = None,
    unsafe_tools: Annotated[
        bool, typer.Option("--unsafe-tools", help="Run the assistant's programs without a sandbox.")
    ] = False,
    think: Annotated[str, typer.Option(help="Thoughts: show, hide or off.")] = "show",
    max_thought: Annotated[
        int | None, typer.Option(min=1, help="Tokens a thought may have.")
    ] = None,
    show_tokens: Annotated[
        bool, typer.Option("--tokens", help="Show the tokens of each turn.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Talk to a model in the terminal."""
    from llmpipe.apps.chat.commands import think_mode
    from llmpipe.apps.chat.session import run_chat
    from llmpipe.apps.chat.tools import ToolOptions
    from llmpipe.inference.sampling import Sampling

    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, max_tokens=max_tokens
    )
    code = run_chat(
        model,
        prompt=prompt,
        system=system,
        sampling=sampling,
        tools=ToolOptions(tools, corpus, search_url, tuple(search_host or ()), unsafe_tools),
        think=think_mode(think),
        max_thought=max_thought,
        show_tokens=show_tokens,
        device=device,
        console=_console(json, quiet, False, debug),
    )
    raise typer.Exit(code)


@app.command(
    "serve",
    short_help="Serve a model: an OpenAI-compatible API, and a chat page",
    rich_help_panel=USE,
    epilog="Examples:  llmpipe serve runs/tiny/sft --port 8000"
    "    |    llmpipe serve runs/tiny/sft --tools none",
)
def serve_(
    model: ModelFolder = Path("runs/tiny/sft"),
    host: Annotated[
        str, typer.Option(help="Another address than loopback needs --key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    key: Annotated[
        str | None,
        typer.Option(envvar="LLMPIPE_API_KEY", help="Clients must send it as a bearer token."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further Host header to accept; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the API.")] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            help="Tools run within answers: python, search, both with a comma, or none; "
            "python on loopback, none elsewhere."
        ),
    ] = None,
    preferences: Annotated[
        Path | None,
        typer.Option(help="File for orders of answers; preferences.jsonl of the run otherwise."),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Requests worked on at the same time; 16 here.")
    ] = None,
    max_len: Annotated[
        int | None, typer.Option(min=2, help="Tokens of prompt and answer; the model's otherwise.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="llmpipe, or vllm: an installed vLLM takes this process's place.")
    ] = "llmpipe",
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a model over an OpenAI-compatible HTTP API, with a page to chat in, on this machine."""
    from llmpipe.apps.serve.options import ServeOptions, run_serve

    options = ServeOptions(
        folder=model,
        host=host,
        port=port,
        key=key,
        allowed_hosts=tuple(allow_host or ()),
        name=name,
        tools=tools,
        preferences=preferences,
        max_batch=max_batch,
        max_len=max_len,
        backend=backend,
        device=device,
    )
    raise typer.Exit(run_serve(options, _console(json, quiet, False, debug)))


@app.command(
    "bench infer",
    short_help="Measure how fast a model writes here, beside other engines",
    rich_help_panel=USE,
    epilog="Examples:  llmpipe bench infer runs/tiny/sft    |    llmpipe bench infer runs/tiny/sft --batch 1,8 --json",
)
def bench_infer(
    model: ModelFolder = Path("runs/tiny/sft"),
    batch: Annotated[
        str, typer.Option(help="Numbers of sequences to try, with commas.")
    ] = "1,8,64,256",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to write after each.")] = 32,
    int8: Annotated[bool, typer.Option("--int8", help="Our matrices in 8 bits.")] = False,
    peers: Annotated[
        bool, typer.Option(help="Also run transformers, llama.cpp and vLLM where installed.")
    ] = True,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure time to first token, tokens per second and the share of memory speed, beside other engines."""
    from llmpipe.apps.bench_infer import parse_batches, run_bench_infer

    run_bench_infer(
        model,
        batches=parse_batches(batch),
        n_prompt=prompt_tokens,
        n_new=new_tokens,
        int8=int8,
        peers=peers,
        device=device,
        console=_console(json, quiet, False, debug),
    )


@app.command(
    "export",
    short_help="Write a model for transformers, llama.cpp or Ollama",
    rich_help_panel=USE,
    epilog="Examples:  llmpipe export runs/tiny/sft --out model --verify"
    "    |    llmpipe export runs/tiny/sft --to gguf --out model-gguf",
)
def export_(
    model: ModelFolder,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    to: Annotated[str, typer.Option(help="hf, gguf or ollama.")] = "hf",
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16 or (GGUF) q8_0.")
    ] = "float32",
    verify: Annotated[
        bool, typer.Option("--verify", help="Reload it and compare log-probabilities.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name of the model; that of its run otherwise.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="SPDX name for the model card.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a model in another program's format, with a model card made from its run."""
    from llmpipe.export.export import export_model

    console = _console(json, quiet, False, debug)
    exported = export_model(
        model,
        to,  # type: ignore[arg-type]  # checked there
        out,
        verify,
        dtype,  # type: ignore[arg-type]
        console,
        name=name,
        license=license,
    )
    if json:
        console.document(
            {"path": str(exported.folder), "bytes": exported.n_bytes, "checks": exported.checks}
        )
        return
    for check in exported.checks:
        console.out(check)
    console.out(str(exported.folder))


@app.command(
    "import",
    short_help="Make a Hugging Face folder a model of llmpipe",
    rich_help_panel=USE,
    epilog="Example:  llmpipe import gpt2-folder --out runs/gpt2/base",
)
def import_(
    folder: Annotated[Path, typer.Argument(help="Hugging Face folder, or a model's name there.")],
    out: Annotated[Path, typer.Option(help="Model folder to make.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a Hugging Face folder a model that sample, sft, eval and serve accept."""
    from llmpipe.export.import_model import import_model

    console = _console(json, quiet, False, debug)
    artifact = import_model(folder, out, console=console)
    if json:
        console.document({"path": str(artifact.path), **artifact.manifest})
    else:
        console.out(str(artifact.path))


@app.command(
    "tokens",
    short_help="See a text as tokens, in the terminal or a browser",
    rich_help_panel=USE,
    epilog="Examples:  llmpipe tokens 'Hello world' --tokenizer runs/tiny/tokens"
    "    |    llmpipe tokens 'low lower lowest' --explain"
    "    |    llmpipe tokens --rows 0:4 --run runs/tiny/base",
)
def tokens(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; standard input otherwise.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Names or folders, with commas: ours, gpt2, cl100k_base, PATH.")
    ] = "",
    explain: Annotated[
        bool, typer.Option("--explain", help="Walk through the first merges.")
    ] = False,
    conversation: Annotated[
        Path | None,
        typer.Option(help="File of conversations: show the first, and what is trained of them."),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST:STOP", help="Show these rows of the training run that --run names."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Model of that run, finished or not, as in runs/NAME/base.")
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a page on this machine instead.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")
    ] = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """See a text as tokens: pieces in colour with their ids, tokenizers side by side."""
    console = _console(json, debug=debug)
    names = tuple(name for name in tokenizer.split(",") if name)
    if rows is not None or run is not None:
        from llmpipe.core.errors import UserError

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


@app.command("ls", short_help="List runs and their artifacts", rich_help_panel=INSPECT)
def ls_(
    runs: Annotated[Path, typer.Argument(help="Folder that holds the runs.")] = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List runs and their artifacts."""
    from llmpipe.cli.inspect import ls

    ls(runs, _console(json, debug=debug))


@app.command(
    "show",
    short_help="Inputs, settings, numbers and files of an artifact",
    rich_help_panel=INSPECT,
    epilog="Example:  llmpipe show runs/tiny/base",
)
def show_(
    path: Annotated[Path, typer.Argument(help="An artifact, or a run folder.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what an artifact is made of: inputs, settings, numbers, files."""
    from llmpipe.cli.inspect import show

    show(path, _console(json, debug=debug))


@app.command(
    "diff",
    short_help="Compare two artifacts or runs",
    rich_help_panel=INSPECT,
    epilog="Example:  llmpipe diff runs/tiny runs/other",
)
def diff_(
    a: Annotated[Path, typer.Argument(help="An artifact, or a run folder.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare the settings, inputs and numbers of two artifacts or runs."""
    from llmpipe.cli.inspect import diff

    diff(a, b, _console(json, debug=debug))


@app.command(
    "verify",
    short_help="Check every file of artifacts against its hash",
    rich_help_panel=INSPECT,
    epilog="Example:  llmpipe verify runs/tiny",
)
def verify_(
    paths: Annotated[list[Path], typer.Argument(help="Artifacts or run folders.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every file of artifacts against its hash."""
    from llmpipe.cli.inspect import verify_command

    verify_command(paths, _console(json, debug=debug))


@app.command(
    "report",
    short_help="Write one page about a run",
    rich_help_panel=INSPECT,
    epilog="Example:  llmpipe report runs/tiny --out report.md",
)
def report_(
    path: Annotated[Path, typer.Argument(help="An artifact, or a run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; .md for Markdown, else HTML.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one page about a run: funnel, curves, samples, conversation."""
    from llmpipe.cli.inspect import report_command

    report_command(path, out, _console(json, debug=debug))


@app.command(
    "data explain",
    short_help="Tell what became of one document, step by step",
    rich_help_panel=INSPECT,
    epilog="Example:  llmpipe data explain http://pydoc.localhost/os.html --corpus runs/tiny/corpus",
)
def data_explain(
    key: Annotated[str, typer.Argument(help="The document's address or id.")],
    corpus: Annotated[Path, typer.Option(help="Folder of the corpus.")] = Path("runs/tiny/corpus"),
    json: Json = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Tell what became of one document, step by step."""
    from llmpipe.stages.data.explain import explain

    console = _console(json, verbose=verbose, debug=debug)
    lines = explain(corpus, key, console)
    if json:
        console.document(lines)
        return
    for line in lines:
        console.out(line)


@app.command(
    "data train-classifier",
    short_help="Train the fastText quality classifier that a recipe can use",
    rich_help_panel=SET_UP,
    epilog="Example:  llmpipe data train-classifier --good books.jsonl --bad crawl.parquet --out quality.bin",
)
def data_train_classifier(
    good: Annotated[
        list[Path], typer.Option(help="Parquet, JSONL or text of what is wanted; repeatable.")
    ],
    bad: Annotated[list[Path], typer.Option(help="The same of what is not; repeatable.")],
    out: Annotated[
        Path, typer.Option(help="File to write; the setting data.quality.model names it.")
    ],
    text_field: Annotated[str, typer.Option(help="Column or key of the text.")] = "text",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the fastText quality classifier and score it on texts kept from it."""
    import dataclasses

    from llmpipe.stages.data.quality import train_classifier

    console = _console(json, debug=debug)
    result = dataclasses.asdict(train_classifier(good, bad, out, text_field=text_field))
    if json:
        console.document(result)
        return
    for name, value in result.items():
        console.out(f"{name:<18}{value}")


# ----------------------------------------------------------------------------------------------
# Set up


@app.command(
    short_help="List, show and copy recipes",
    rich_help_panel=SET_UP,
    epilog="Examples:  llmpipe recipes    |    llmpipe recipes show tiny    |    llmpipe recipes cp tiny mine.toml",
)
def recipes(
    action: Annotated[str, typer.Argument(help="ls, show, cp or schema.")] = "ls",
    name: Annotated[str | None, typer.Argument(help="A recipe's name or path.")] = None,
    target: Annotated[Path | None, typer.Argument(help="For cp: the file to write.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List, show and copy recipes; print their JSON schema."""
    from llmpipe.cli import recipes as module
    from llmpipe.core.errors import UserError, did_you_mean

    console = _console(json, debug=debug)
    match action, name, target:
        case "ls", None, None:
            module.list_recipes(console)
        case "show", str(), None:
            module.show_recipe(name, console)
        case "cp", str(), Path():
            module.copy_recipe(name, target, console)
        case "schema", None, None:
            module.show_schema(load_schemas(), console)
        case _:
            usage = "`ls`, `show NAME`, `cp NAME FILE` or `schema` is expected after `recipes`"
            raise UserError(usage, did_you_mean(action, ("ls", "show", "cp", "schema")))


@app.command(short_help="Check what this machine can do", rich_help_panel=SET_UP)
def doctor(
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Attack the sandbox of the python tool, and say what held."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check what this machine can do: versions, device, memory, disk, a short training run."""
    from llmpipe.cli.doctor import run_doctor, run_sandbox_doctor

    (run_sandbox_doctor if sandbox else run_doctor)(_console(json, debug=debug))


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
    except LlmpipeError as error:
        code = _report(error, error.message, error.hint, error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        code = _report(error, "stopped by Ctrl-C", "run the same command again to go on", 130)
    except OSError as error:
        code = _report_os_error(error)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of Typer's
            error.show()
            code = int(error.exit_code)
        elif _is_disk_full(error):
            code = _report_disk_full(error)
        else:
            code = _report_bug(error)
    code = code if isinstance(code, int) else 0
    assert code in EXIT_CODES, code
    return code


def _report(error: BaseException, message: str, hint: str | None, code: int) -> int:
    if _Session.debug:
        traceback.print_exception(error)
    if is_first_to_say(message, is_lasting=code in (2, 3, 4)):
        _Session.console.error(signature() + message, hint)
    return code


def _report_os_error(error: OSError) -> int:
    if _is_disk_full(error):
        return _report_disk_full(error)
    if isinstance(error, BrokenPipeError):  # `llmpipe show … | head`
        # The interpreter flushes stdout when it ends; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        where = f"`{error.filename}`" if error.filename else "a file"
        return _report(
            error, f"cannot use {where}: {error.strerror}", "check its owner and permissions", 2
        )
    return _report_bug(error)


def _is_disk_full(error: BaseException) -> bool:
    """Whether the disk was full, also when a library reports it in its own words."""
    chain: BaseException | None = error
    while chain is not None:
        if getattr(chain, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left on device" in str(chain):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _report_disk_full(error: BaseException) -> int:
    hint = "free some space and run the same command again; finished work is kept"
    filename = getattr(error, "filename", None)
    where = f" (writing `{filename}`)" if filename else ""
    return _report(error, f"the disk is full{where}", hint, 75)


def _report_bug(error: BaseException) -> int:
    log = Path(tempfile.gettempdir()) / f"llmpipe-crash-{os.getpid()}.log"
    try:
        log.write_text("".join(traceback.format_exception(error)))
        hint = f"this is a bug in llmpipe; the traceback is in {log}"
    except OSError:
        hint = "this is a bug in llmpipe; --debug shows the traceback"
    summary = str(error).split("\n", 1)[0]
    return _report(error, f"{type(error).__name__}: {summary}", hint, 1)

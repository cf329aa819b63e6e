"""The `eval` stage: a chat model answers questions, and programs judge the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmpipe.core.artifact import Artifact, write_atomic
from llmpipe.core.errors import UserError
from llmpipe.core.stage import Context, Inputs, Need, StageSpec
from llmpipe.stages.eval.config import EvalConfig
from llmpipe.stages.eval.report import report


def run(config: EvalConfig, inputs: Inputs, out: Path, ctx: Context) -> dict[str, Any]:
    """Run the tasks and the conversation; write `scores.json` and `answers.jsonl`.

    A run that was killed starts from the beginning: it takes seconds to minutes, and its answers
    are the same again.
    """
    import json
    from dataclasses import replace

    from llmpipe.assistant.tools import open_tools
    from llmpipe.core.distributed import open_runtime
    from llmpipe.inference.engine import Engine
    from llmpipe.inference.sampling import Sampling
    from llmpipe.model.weights import load_model
    from llmpipe.tasks.judging import Assistant, hold_conversation, run_task
    from llmpipe.tasks.registry import TASKS
    from llmpipe.tokenizer.bpe import Tokenizer

    model_artifact = inputs["model"]
    facts = known_facts(config, model_artifact)
    scores: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    corpus = inputs["corpus"].path if "corpus" in inputs else None
    with open_runtime(ctx.device) as runtime, open_tools(config.tools, corpus) as tools:
        model = load_model(model_artifact.path, runtime.device).eval()
        sampling = Sampling(config.temperature, seed=ctx.seed, max_tokens=config.max_tokens)
        assistant = Assistant(
            Engine(model, max_batch=config.batch_size, warn=ctx.console.warn),
            Tokenizer.load(model_artifact.path),
            sampling,
            tools,
        )
        with ctx.console.progress("eval", len(config.tasks), "task") as progress:
            for done, name in enumerate(config.tasks, start=1):
                task = TASKS[name]
                examples = task.examples(facts, config.examples, ctx.seed)
                scores[name], answered = run_task(task, examples, assistant)
                records += answered
                progress.update(done, f"{name} {scores[name]['accuracy']:.1%}")
                ctx.stop.check()
        greedy = replace(assistant, sampling=replace(sampling, temperature=0.0))
        conversation = hold_conversation(config.conversation, greedy)

    write_atomic(out / "scores.json", json.dumps(scores, indent=2, sort_keys=True) + "\n")
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomic(out / "answers.jsonl", lines)
    accuracies = {f"{name}_accuracy": numbers["accuracy"] for name, numbers in scores.items()}
    return {**accuracies, "scores": scores, "conversation": conversation}


def known_facts(config: EvalConfig, model: Artifact) -> Any:
    """Return what the tasks may know of the assistant.

    Raises:
        UserError: the name it should give is not known.
    """
    from llmpipe.tasks.base import AssistantFacts

    name = config.name or model.config.get("identity", {}).get("name")
    if name is None:
        raise UserError(
            f"`{model.path}` does not say what the assistant is called",
            "name it with `--set eval.name=NAME`",
        )
    held_out = model.file("held_out.jsonl")
    return AssistantFacts(name, held_out if held_out.is_file() else None)


def needs(config: EvalConfig) -> dict[str, Need]:
    """Name the inputs: a chat model, and the corpus where it is to search."""
    corpus = {"corpus": Need("corpus", "corpus")} if "search" in config.tools else {}
    return {"model": Need("model", "sft"), **corpus}


def plan(config: EvalConfig, inputs: Inputs) -> dict[str, str]:
    """Tell what a run would do."""
    return {
        "tasks": ", ".join(config.tasks),
        "tools": ", ".join(config.tools) or "none",
        "questions": f"up to {config.examples} per task, {len(config.conversation)} in a conversation",
    }


def headline(stats: Mapping[str, Any]) -> str:
    """Sum a run up."""
    scores = stats["scores"].items()
    return ", ".join(f"{name} {numbers['correct']}/{numbers['n']}" for name, numbers in scores)


def closing(stats: Mapping[str, Any]) -> list[str]:
    """Show the conversation."""
    lines = []
    for turn in stats["conversation"]:
        calls = "".join(f"[python: {call}] " for call in turn["tool_calls"])
        lines += [f"you        {turn['question']}", f"assistant  {calls}{turn['answer']}"]
    return lines


SPEC = StageSpec(
    name="eval",
    version=1,
    summary="Chat model -> scores and a conversation",
    config=EvalConfig,
    folder="eval",
    writes="scores",
    run=run,
    needs=needs,
    plan=plan,
    headline=headline,
    report=report,
    closing=closing,
    examples=(
        "llmpipe eval configs/tiny.toml",
        "llmpipe eval configs/tiny.toml --from model=runs/tiny/sft --set eval.examples=20",
    ),
)

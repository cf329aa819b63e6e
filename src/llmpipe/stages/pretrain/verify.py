"""Token shards against their checksums: once per machine, and every process hears what came out.

Processes of one machine read the same files, so one of them is enough; on other machines the folder
may be a copy of its own. They meet after each file, so none waits longer for another than one file
takes, and a damaged one ends all of them with the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmpipe.core.distributed import Runtime
from llmpipe.core.errors import InputError
from llmpipe.core.stage import Context
from llmpipe.tokenizer.shards import TokenShards


def verify_shards(opened: Sequence[TokenShards], runtime: Runtime, ctx: Context) -> None:
    """Compare every file of all shards with its checksum; all processes call this together.

    Raises:
        InputError: naming the first file that differs, in every process.
        Stopped: if one of them was asked to stop.
    """
    files = [file for shards in opened for file in shards.files()]
    sizes = [file.path.stat().st_size for file in files]
    done, n_megabytes = 0, round(sum(sizes) / 1e6)
    with ctx.console.progress("pretrain: checking shards", n_megabytes, "MB") as progress:
        for file, size in zip(files, sizes, strict=True):
            error = None
            if runtime.ranks.local_rank == 0:
                try:
                    file.verify()
                except InputError as caught:
                    error = caught
            is_damaged, must_stop = runtime.sum([error is not None, ctx.stop.requested])
            if is_damaged:
                raise next(found for found in runtime.gather(error) if found is not None)
            if must_stop:
                ctx.stop.request()  # on the processes that no signal came to
                ctx.stop.check()
            done += size
            progress.update(round(done / 1e6))

"""Rows out of files: the one reader that every stage shares.

    a name  --expand-->  files  --open_binary-->  bytes  --pieces-->  unpacked bytes  --lines, parquet-->  rows

    files.py         names, folders, patterns and addresses to files; a file opened, patiently where it is far away
    compression.py   the only place that knows gzip, Zstandard and LZ4; goes on after damage
    lines.py         lines, and JSON lines, in bounded memory
    parquet.py       Parquet, in bounded batches, with its checksums verified
    rows.py          which ending of a file's name is read by which function

Whatever cannot be read comes out as an `Unreadable` between the rows, with its place and the reason. The caller
decides: count it and go on, or make it an error (`intact`, `whole`).
"""

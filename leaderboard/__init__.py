"""The leaderboard: run directories in, a static site out that opens from disk without a network.

The rooms, in the order that data flows through them: :mod:`.store` reads run directories, :mod:`.board` sorts runs into
tasks, entries and cells, :mod:`.statistics` turns seeds into intervals, :mod:`.standings` and :mod:`.details` make
tables of them, :mod:`.figures` charts, :mod:`.pages` what each page says, and :mod:`.site` writes it all.
"""

"""The leaderboard: run directories or published files in, a static site out that opens from disk without a network.

The rooms, in the order that data flows through them: :mod:`.store` reads run directories and, by
:mod:`.published`, published files; :mod:`.grouping` sorts runs into what :mod:`.board` knows, tasks, entries and cells;
:mod:`.statistics` turns seeds into intervals; :mod:`.standings` and :mod:`.details` make tables of them, :mod:`.figures`
charts, :mod:`.sharing_map` maps of banks; :mod:`.ensembles` reads members and their subsets, which :mod:`.anytime` shows;
the ``*_pages`` say what each page says, and :mod:`.site` writes it all.
:mod:`.publishing` goes the other way, from run directories to published files.
"""

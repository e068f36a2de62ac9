"""A fuzzer of the commands: damaged data sets, options, runs, results files and raw files.

    python -m tests.fuzz --inputs 10000 --seed 0
    python -m tests.fuzz --inputs 500 --seed 3 --targets run prepare

Every input must end with an exit status and one sentence, within a number of seconds and bytes. A
traceback, a hang and too much memory are failures; the command then ends with status 1 and prints
how to repeat each of them. `test_fuzz.py` lets hypothesis draw a few hundred inputs.
"""

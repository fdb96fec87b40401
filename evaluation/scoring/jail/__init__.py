"""Where a model's program runs: what the launched processes do. None of it is imported by the evaluator itself.

evaluator -> launcher -> supervisor (first process of its own namespace) -> candidate: the model's program
                |               |                                       -> examiner: the benchmark's tests
             wall clock     memory and number of the processes below it
"""

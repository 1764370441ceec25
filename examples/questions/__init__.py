"""The example's training questions: hand-written facts and generated exercises.

`python -m examples.questions` writes `examples/training_questions.jsonl`, the same file at every
run. References of exercises are computed, those of code questions by running the code.
"""

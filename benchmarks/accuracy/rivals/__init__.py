"""Other people's libraries in the same comparison.

Each trains in a process of its own, with the Python that it needs:

- `protocol`: what it is given (a checkpoint, training images, the order of the batches)
  and what it hands back (the weights). It never sees the validation or the test split.
- `registry`: which libraries there are, and what they can prune.
- `tfmot`, `pquant`: one program for each library, run by `python -m`.
- `harness`: hands a run to such a program, and checks what comes back.

Accuracy and zeros are measured on the weights by the code that measures all methods.
"""

"""Other people's libraries in the same comparison.

Each trains in a process of its own, with the Python that it needs:

- `protocol`: what it is given (a checkpoint, training images, the order of the batches)
  and what it hands back (the weights). It never sees the validation or the test split.
- `registry`: which libraries there are, and what they can prune.
- `tfmot`, `pquant`: one program for each library, run by `python -m`.
- `harness`: hands a run to such a program, and checks what comes back.

Accuracy and zeros are measured on the weights by the code that measures all methods;
there is no accuracy before and after a freeze, which the tables show for those here.

What is done for them, and what they cannot do:

- tfmot prunes `tf_keras` models. The network is built of `tf_keras` layers, gets the
  checkpoint, and must give the same logits before anything is trained.
- BatchNormalization in `tf_keras` divides by n - 1 for the moving variance, in Keras 3
  by n; n is 2,048 or more in these networks. All else is trained alike.
- tfmot raises the sparsity every 100 steps by default, which is seldom in runs this
  short; here it does so 20 times in the search, the last time with its last step. It
  has no global ranking, so that all layers get the same sparsity.
- tfmot's N:M takes kernels of rank 2 and 4. Attention is built of Dense layers for it,
  with the same weights. It chooses the pattern once, in the first step.
- tfmot leaves depthwise convolutions dense, prunes no channels, and has blocks for
  Dense layers only: those cells have a dash.
- PQuantML ramps the sparsity by `epsilon` per epoch, 67 of them by default; what it
  calls an epoch is one of 20 parts of the search here.
- PQuantML's `add_compression_layers` takes chains of layers only. Its `PQConv2d` and
  `PQDense` are put in place one by one instead.
- PQuantML 0.1.0 means to share the sparsity out among the layers, but its Keras layers
  all take the same (`registry.PQuant`, `share_out`). The configurations have it as it
  is, `pquant`, and mended, `pquant_mended`.
- PQuantML's PDP has no N:M and no blocks, and its attention layer is not Keras's:
  dashes. Its pruning of channels in single layers is not compared.
"""

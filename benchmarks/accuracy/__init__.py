"""Which method leaves the most accuracy: all of them under the same conditions.

    python -m benchmarks.accuracy plan [--quick]    how much there is to do
    python -m benchmarks.accuracy run [--quick]     does it, or goes on after a kill
    python -m benchmarks.accuracy tables [--quick]  tables and plots of what is done

`full.toml` and `quick.toml` say what is compared; `--config` takes another file, as
`longer.toml`, `updates.toml`, `macs.toml`, `slim.toml`, `ablations.toml`,
`robust.toml`, `groups.toml`, `single.toml`, `kinds.toml`, `depthwise.toml`,
`blocks.toml`, `scale.toml`, `small_blocks.toml`, `channels.toml`, `norms.toml`,
`hindsight.toml`, `restarts.toml`, or `rivals.toml`, in which tfmot and PQuantML
compete. `common.toml` has what they have in common, and says what the entries mean.

In every cell (data, network, structure, sparsity), and for every method, the dense
network included:

1. The learning rate of the weights is tuned on the validation split, with a seed that
   is used for nothing else: a grid spaced evenly in the logarithm, then as many more
   trials for every method. A method with a knob tries the knob's other values at its
   best rate; one without tries rates between the best one and its neighbours. Where
   the file names seeds for it, settings within `margin` of a method's best one are
   tried with these, too, and the best mean is taken.
2. The best setting is run with further seeds, and only these runs read the test split.
   Methods whose validation accuracy is within `margin` of the best get more seeds.
   Where the file names seeds to decide, the first method and its best rival on the
   validation split get these, too, whatever they have reached by then.

All runs of a seed start from the same dense checkpoint, see the same batches in the
same order, and have the same number of epochs. `config` reads the file, `runs` keeps
one JSON line for each run, `study` is the procedure above, `training` does a run by
the `recipe` that all share (`rivals` has it done by another library), `workers` do
several at once, `statistics`, `tables` and `plots` say what came out.
"""

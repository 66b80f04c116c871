"""Why a fault is one: its operators run once more, alone, with one thing changed at a time, until the error vanishes.

`case` sets the experiment of one fault up: the region of either side as a short ONNX program (`to_program`), fed the
very values that the fault was measured on, with what converters fuse and split put back together (`folding`). Each file
of `hypotheses` knows one kind of mistake, and which changes would prove it. `search` has them tried, in the time that
`run` gives, and tells the cheapest (`costs`) that leaves no error to speak of (`thresholds`). `whole_pair` looks for
what is of no single operator.
"""

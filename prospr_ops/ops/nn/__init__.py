"""Functions of tf.nn built on the compiled ops, with faster derivatives."""

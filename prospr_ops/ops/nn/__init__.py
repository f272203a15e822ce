"""Functions of tf.nn built on the compiled ops, and faster to differentiate."""

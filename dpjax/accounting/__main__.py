"""What private training costs, in plain words.

    python -m dpjax.accounting COMMAND --flag=value ...

COMMAND is one of
  epsilon  what a run costs: --noise_multiplier, its length, its sampling, --delta
  delta    the delta of a run at a given --epsilon
  noise    the least noise multiplier for a target --epsilon at --delta
  steps    the most steps for a target --epsilon at --delta
  curve    epsilon over the steps of a run
  compare  epsilon of a run by every accountant, the exact one first
  tradeoff how well the best test tells whether an example was used

Sampling: --sampling_prob, or --num_examples and --batch_size. Length: --num_steps, or
--num_epochs. Everywhere: --accountant, --json, --plot=FILE.
"""

from absl import app, flags

from dpjax.accounting.commands import invocation, options

if __name__ == "__main__":
    options.define(flags.FLAGS)
    flags.adopt_module_key_flags(options)
    app.run(invocation.main, flags_parser=invocation.parse)

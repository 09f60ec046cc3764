"""From overrides to a checked configuration, and from a configuration to objects.

`compose` turns `["data=digits", "tree.spec=[4,4]"]` into a config, `check` compares the config with
the signatures of what it names, `build` makes the objects, `digest` names the variant. The YAML is
Hydra's and means what Hydra says it means, with four differences, each on purpose:

* a value replaces the value before it, dicts and lists too (Hydra merges a dict into a dict);
* nothing can be added or deleted: a misspelt key would silently train the default;
* `_target_` names code of hmoe only (Hydra's list of forbidden targets lets others through);
* `build` is not `hydra.utils.instantiate`, which turns every dataclass it is passed, such as a
  `Tree`, into a config, and wraps partials in a check that costs 65 us a call.

No torch at import time: `check` and `build` import what the config names.
"""

from hmoe.config.grammar import has_sweep, key_of, parse, plain_values
from hmoe.config.groups import CONF, group_names, options
from hmoe.config.objects import build
from hmoe.config.overrides import compose, keys, that_are_read
from hmoe.config.rows import expand
from hmoe.config.signatures import RunName, check, explain
from hmoe.config.systems import Experiment, System, read_experiment, read_system
from hmoe.config.targets import locate
from hmoe.config.text import digest, literal, to_yaml

__all__ = [
    "CONF",
    "Experiment",
    "RunName",
    "System",
    "build",
    "check",
    "compose",
    "digest",
    "expand",
    "explain",
    "group_names",
    "has_sweep",
    "key_of",
    "keys",
    "literal",
    "locate",
    "options",
    "parse",
    "plain_values",
    "read_experiment",
    "read_system",
    "that_are_read",
    "to_yaml",
]

from . import rules as rules
from . import stimuli as stimuli
from . import theory as theory

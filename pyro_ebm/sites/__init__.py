"""Named tensors: what a site is, the values it may have, and the checks of given values."""

from .checks import (
    all_true as all_true,
    as_tensor as as_tensor,
    check_names as check_names,
    check_shape as check_shape,
    check_support as check_support,
    cure as cure,
    is_inside as is_inside,
    is_trusting as is_trusting,
    only_site as only_site,
    require_numbers as require_numbers,
    require_precision as require_precision,
    trusting as trusting,
)
from .counts import is_count as is_count, whole as whole
from .padding import PaddedLabels, settled as settled
from .site import (
    Site,
    Sites,
    batch_shape as batch_shape,
    covers as covers,
    same_support as same_support,
    unit_names as unit_names,
)
from .values import (
    LARGEST as LARGEST,
    LOWEST as LOWEST,
    Levels as Levels,
    ListedValues,
    SpinConstraint,
    allowed_values as allowed_values,
    boolean,
    bounded as bounded,
    describe as describe,
    flat_features as flat_features,
    in_words as in_words,
    is_endless as is_endless,
    is_integer as is_integer,
    is_one_hot as is_one_hot,
    is_real as is_real,
    label_bounds as label_bounds,
    levels_of as levels_of,
    of_one_element as of_one_element,
    part_of as part_of,
    random_values as random_values,
    spin,
    storage_dtype as storage_dtype,
    two_values as two_values,
    units_of as units_of,
    values_at as values_at,
    values_of as values_of,
)

__all__ = [
    "ListedValues",
    "PaddedLabels",
    "Site",
    "Sites",
    "SpinConstraint",
    "boolean",
    "spin",
]

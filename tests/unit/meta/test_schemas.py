"""What the meta-judge is asked to answer with."""

import re

from mpo_lite.meta import schemas


def test_the_schemas_ask_for_what_is_needed() -> None:
    criteria = schemas.REFINED["properties"]["criteria"]
    assert (criteria["minItems"], criteria["maxItems"]) == (0, 4)
    assert next(iter(schemas.REFINED["properties"])) == "change"  # decided before the lists are written
    form = criteria["items"]["properties"]
    assert (form["levels"]["minItems"], form["levels"]["maxItems"]) == (2, 7)
    assert form["levels"]["items"]["minLength"] > 1 and re.match(form["id"]["pattern"], "flow_2")
    assert schemas.MERGED["properties"]["criteria"]["maxItems"] == 12

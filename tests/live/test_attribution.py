"""Maps of the shown image: finished while paused, made in parts while training, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.inspect.attribution_maps import map_stages
from gpuconv.live import attribution, pictures, snapshots
from tests.live.sessions import CONV, HubWithClient, do, unpack, wait_for


def map_of(session):
    """The header and the values of the newest map."""
    head, values = unpack(session.hub.get("map")[1])
    return head, np.frombuffer(values, np.int8)


@pytest.mark.parametrize("kind", [kind for kind in attribution.MAP_KINDS if kind != "none"])
def test_a_map_of_the_image_is_finished_while_paused(open_session, kind):
    session = open_session(CONV)
    do(session, "pause")
    do(session, "look", test=2, map=kind)
    wait_for(session, lambda: not session.view.attribution.unfinished)
    head, values = map_of(session)
    assert (head["map"], head["step"], head["error"]) == (kind, session.trainer.steps, "")
    net, x = session.segment.net, snapshots.normalize_images(session.segment, session.view.image[None])
    *_, found = map_stages(kind, net, x, target=head["target"], batch=64)
    flat = np.abs(found).max(axis=2) if found.ndim == 3 else found
    expected = np.frombuffer(pictures.pack({}, [pictures.plane("", flat)]), np.int8)[-values.size :]
    np.testing.assert_allclose(values.astype(int), expected.astype(int), atol=1)
    assert values.any()


def test_an_occlusion_is_made_in_parts_between_steps(open_session):
    session, parts = open_session(CONV), []

    class Hub(HubWithClient):
        def put(self, name, message):
            if name == "map":
                parts.append((session.view.attribution._begun_after, session.trainer.steps))

    session.view.hub = Hub()
    wait_for(session, lambda: session.trainer.steps > 2)
    do(session, "look", map="occlusion")
    begun_at = session.trainer.steps
    assert session.view.attribution.unfinished
    wait_for(session, lambda: session.view.attribution._begun_after > begun_at)  # the next map has begun
    assert len({made_after for map_begun_after, made_after in parts if map_begun_after == parts[0][0]}) > 1


def test_a_map_that_cannot_be_made_shows_its_error(open_session, monkeypatch):
    def refused(*_, **__):
        raise ValueError("no maps")
        yield  # makes this a generator, as `map_stages` is

    monkeypatch.setattr(attribution, "map_stages", refused)
    session = open_session()
    do(session, "look", map="grad-cam")
    wait_for(session, lambda: session.hub.get("map") is not None)
    assert map_of(session)[0]["error"] == "no maps"
    steps = session.trainer.steps
    wait_for(session, lambda: session.trainer.steps > steps + 5)


def test_an_unknown_map_is_refused(open_session):
    session = open_session()
    with pytest.raises(ValueError, match="map must be one of none, saliency, occlusion, grad-cam, received 'heat'"):
        do(session, "look", map="heat")

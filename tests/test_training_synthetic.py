"""Synthetic videos: their pixels and masks agree, and depend on nothing but seed and index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.errors import DataError
from training.dataset.clips import AnnotatedVideo, Source
from training.synthetic import moving_stills
from training.synthetic.moving_stills import MovingStills
from training.synthetic.procedural import ProceduralVideos, draw_outline, draw_sprite, draw_texture
from training.synthetic.scene import Backdrop, Layer, Look, Scene, SceneVideo, draw_camera, draw_path
from training.synthetic.warp import Motion, Pose, Ripple, Swing, Window, shift, smear, transform, warp

BLUE, BROWN = (40, 60, 250), (90, 70, 30)


@dataclass(frozen=True)
class Still:
    """A photo in memory; with `error` one that cannot be read."""

    name: str
    pixels: np.ndarray
    objects: dict[int, np.ndarray] = field(default_factory=dict)
    error: str | None = None

    def __len__(self) -> int:
        return 1

    def image(self, t: int) -> np.ndarray:
        if self.error:
            raise DataError(self.error)
        return self.pixels

    def masks(self, t: int) -> Mapping[int, np.ndarray]:
        return self.objects


@dataclass(frozen=True)
class Stills:
    videos: list[Still]
    name: str = "album"

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Still:
        return self.videos[index]


def photo(index: int, *, height: int = 60, width: int = 80, ids: tuple[int, ...] = (1,)) -> Still:
    """A brown photo with noise and blue discs, one for each id, side by side."""
    noise = np.random.default_rng(index).integers(0, 30, (height, width, 3))
    pixels = (np.array(BROWN) + noise).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    masks = {}
    for i, object_id in enumerate(ids):
        centre, radius = (i + 0.5) * width / len(ids), min(height, width / len(ids)) / 3
        masks[object_id] = (x - centre) ** 2 + (y - height / 2) ** 2 <= radius**2
        pixels[masks[object_id]] = BLUE
    return Still(f"photo{index}", pixels, masks)


def album(count: int = 6, **kwargs: int | tuple[int, ...]) -> Stills:
    return Stills([photo(i, **kwargs) for i in range(count)])


def still_motion(**swings: Swing) -> Motion:
    """No motion at all, at the middle of a frame of 64 x 64, but for `swings`."""
    at = {name: Swing(start=value, end=value, frames=8.0) for name, value in {"x": 31.5, "y": 31.5}.items()}
    rest = {name: Swing(start=0.0, end=0.0, frames=8.0) for name in ("angle", "log_scale", "tilt_x", "tilt_y")}
    return Motion(**{**at, **rest, **swings})


def plain_look(shutter: float = 0.0) -> Look:
    none = Swing(start=0.0, end=0.0, frames=8.0)
    return Look(shutter=shutter, focus=none, exposure=none)


def black_scene(*layers: Layer, shutter: float = 0.0, camera: Motion | None = None) -> Scene:
    backdrop = Backdrop(pixels=torch.zeros(3, 80, 80), camera=camera or still_motion(), frame=(64, 64))
    return Scene(backdrop=backdrop, layers=layers, look=plain_look(shutter), num_frames=12)


def sprite(channel: int, motion: Motion, *, seed: int = 0, object_id: int | None = 1, **kwargs: object) -> Layer:
    """A soft-edged irregular layer that is all red, all green or all blue."""
    alpha = draw_sprite(np.random.default_rng(seed), 500)[3:]
    pixels = torch.cat([alpha * 255 if i == channel else torch.zeros_like(alpha) for i in range(3)] + [alpha])
    return Layer(pixels=pixels, motion=motion, object_id=object_id, **kwargs)


MOVING = still_motion(
    x=Swing(start=15.0, end=50.0, frames=10.0),
    angle=Swing(start=0.0, end=1.0, frames=9.0),
    log_scale=Swing(start=-0.3, end=0.3, frames=11.0),
    tilt_x=Swing(start=-0.003, end=0.003, frames=8.0),
)

SOURCES: list[Callable[[int], Source]] = [
    lambda seed: ProceduralVideos(20, num_frames=12, size=64, seed=seed),
    lambda seed: MovingStills(album(ids=(1, 2)), num_frames=12, seed=seed),
]


def everything(video: AnnotatedVideo, order: list[int]) -> dict[int, tuple[bytes, dict[int, bytes]]]:
    return {t: (video.image(t).tobytes(), {i: m.tobytes() for i, m in video.masks(t).items()}) for t in order}


@pytest.mark.parametrize("make", SOURCES, ids=["procedural", "stills"])
class TestEverySource:
    def test_seed_and_index_determine_all_pixels(self, make: Callable[[int], Source]) -> None:
        np.random.seed(1)
        torch.manual_seed(1)
        first = [everything(make(3)[i], list(range(12))) for i in range(4)]
        np.random.seed(2)
        torch.manual_seed(2)
        assert [everything(make(3)[i], list(range(12))) for i in range(4)] == first
        assert everything(make(4)[0], list(range(12))) != first[0]
        assert len({str(video[0][0]) for video in first}) == 4

    def test_the_order_of_reading_does_not_matter(self, make: Callable[[int], Source]) -> None:
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 2)).tolist()
        for i in range(4):
            assert everything(make(0)[i], order) == everything(make(0)[i], list(range(12)))

    def test_global_random_state_is_left_alone(self, make: Callable[[int], Source]) -> None:
        before = torch.get_rng_state(), np.random.get_state()[1]
        make(0)[0].image(0)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])

    def test_values_have_the_promised_form(self, make: Callable[[int], Source]) -> None:
        for i in range(6):
            video = make(0)[i]
            assert len(video) == 12
            for t in (0, 11):
                image, masks = video.image(t), video.masks(t)
                assert image.dtype == np.uint8
                assert image.ndim == 3
                assert masks
                assert all(m.dtype == np.bool_ and m.shape == image.shape[:2] and m.any() for m in masks.values())

    def test_what_a_caller_does_to_a_frame_stays_with_the_caller(self, make: Callable[[int], Source]) -> None:
        video = make(0)[0]
        before = everything(video, [0])
        video.image(0)[:] = 0
        for mask in video.masks(0).values():
            mask[:] = False
        assert everything(video, [0]) == before

    def test_the_masks_of_objects_do_not_overlap_where_one_hides_another(self, make: Callable[[int], Source]) -> None:
        for i in range(6):
            masks = make(0)[i].masks(5).values()
            assert np.sum(list(masks), axis=0).max() <= 1

    def test_indices_outside_are_refused(self, make: Callable[[int], Source]) -> None:
        source = make(0)
        for index in (-1, len(source)):
            with pytest.raises(IndexError, match=rf"video {index} of {len(source)}"):
                source[index]
        with pytest.raises(IndexError, match="frame 12 of 12"):
            source[0].image(12)
        with pytest.raises(IndexError, match="frame -1 of 12"):
            source[0].masks(-1)


class TestScene:
    """On black, the red of a red layer is its share of the pixel, so its mask must be where red is at least half."""

    @pytest.mark.parametrize("shutter", [0.0, 0.8])
    @pytest.mark.parametrize("strain", [0.0, 0.4])
    @pytest.mark.parametrize("follows_camera", [False, True])
    def test_the_mask_moves_with_the_pixels(self, shutter: float, strain: float, follows_camera: bool) -> None:
        ripple = Ripple.draw(np.random.default_rng(5), 25, strain=strain) if strain else None
        camera = draw_camera(np.random.default_rng(0), (64, 64), strength=0.3)
        layer = sprite(0, MOVING, ripple=ripple, follows_camera=follows_camera)
        scene = black_scene(layer, shutter=shutter, camera=camera)
        masks = []
        for t in range(12):
            frame = scene.render(t)
            assert frame.object_ids == (1,)
            red = frame.image[..., 0]
            assert frame.masks[0][red > 128].all()
            assert not frame.masks[0][red < 127].any()
            assert 100 < frame.masks[0].sum() < 1500
            masks.append(frame.masks[0])
        assert not (masks[0] & masks[10]).all()
        assert np.argwhere(masks[0])[:, 1].mean() < np.argwhere(masks[10])[:, 1].mean() - 10

    def test_the_layer_in_front_hides_the_one_behind(self) -> None:
        back, front = sprite(0, still_motion()), sprite(1, MOVING, seed=1, object_id=2)
        alone, both = black_scene(back), black_scene(back, front)
        hidden = []
        for t in range(12):
            frame = both.render(t)
            assert frame.object_ids == (1, 2)
            assert np.array_equal(frame.masks[0], frame.image[..., 0] >= 128)
            assert np.array_equal(frame.masks[1], frame.image[..., 1] >= 128)
            hidden.append(int(alone.render(t).masks[0].sum() - frame.masks[0].sum()))
        assert max(hidden) > 200
        assert min(hidden) >= 0

    def test_something_without_an_id_hides_but_has_no_mask(self) -> None:
        back, front = sprite(0, still_motion()), sprite(1, still_motion(), object_id=None)
        frame = black_scene(back, front).render(0)
        assert frame.object_ids == (1,)
        assert not frame.masks.any()
        assert (frame.image[..., 1] >= 128).sum() > 300

    def test_an_object_that_leaves_is_absent_and_comes_back(self) -> None:
        leaving = still_motion(x=Swing(start=31.5, end=150.0, frames=6.0))
        video = SceneVideo("leaves", 12, lambda: black_scene(sprite(0, leaving)))
        there = [1 in video.masks(t) for t in range(12)]
        assert there[0]
        assert not there[6]
        assert there[11]

    def test_masks_of_a_backdrop_move_with_it(self) -> None:
        disc = torch.from_numpy(photo(0, height=80, width=80).masks(0)[1]).float()
        camera = draw_camera(np.random.default_rng(2), (64, 64), strength=0.4)
        backdrop = replace(
            black_scene(camera=camera).backdrop,
            pixels=torch.stack([disc * 255, disc * 0, disc * 0]),
            masks=disc[None],
            object_ids=(4,),
        )
        scene = replace(black_scene(), backdrop=backdrop)
        for t in range(12):
            frame = scene.render(t)
            assert frame.object_ids == (4,)
            assert np.array_equal(frame.masks[0], frame.image[..., 0] >= 128)
        assert (scene.render(0).masks != scene.render(11).masks).sum() > 50

    @pytest.mark.parametrize("seed", range(5))
    def test_the_camera_never_shows_more_than_the_backdrop(self, seed: int) -> None:
        """A white line around the backdrop would be stretched to an area beyond it."""
        pixels = torch.full((3, 64, 64), 255.0)
        pixels[:, 1:-1, 1:-1] = 0
        camera = draw_camera(np.random.default_rng(seed), (64, 64), strength=0.45)
        scene = replace(black_scene(), backdrop=Backdrop(pixels=pixels, camera=camera, frame=(64, 64)))
        for t in range(12):
            white = scene.render(t).image[..., 0] > 200
            assert white.sum() < 3 * 64, f"a border of {white.sum()} pixels at t = {t}"

    def test_an_exposed_and_defocused_frame_keeps_its_masks(self) -> None:
        scene = black_scene(sprite(0, MOVING))
        look = Look(shutter=0, focus=Swing(start=2, end=2, frames=8), exposure=Swing(start=-0.5, end=-0.5, frames=8))
        frame, plain = replace(scene, look=look).render(3), scene.render(3)
        assert np.array_equal(frame.masks, plain.masks)
        assert frame.image.max() < 0.65 * plain.image.max()

    def test_the_scene_is_built_once_and_late(self) -> None:
        built = []
        video = SceneVideo("late", 12, lambda: built.append(1) or black_scene(sprite(0, MOVING)))
        assert not built
        for t in range(12):
            video.image(t)
            video.masks(t)
        assert built == [1]


class TestProcedural:
    def test_objects_have_sensible_sizes_and_are_there_at_the_start(self) -> None:
        source = ProceduralVideos(60, size=64)
        firsts = [source[i].masks(0) for i in range(60)]
        areas = np.array([mask.mean() for masks in firsts for mask in masks.values()])
        assert {len(masks) for masks in firsts} == {1, 2, 3, 4}
        assert set().union(*firsts) == {1, 2, 3, 4}
        assert np.mean((areas > 0.005) & (areas < 0.4)) > 0.9

    def test_some_objects_vanish_and_come_back(self) -> None:
        source = ProceduralVideos(25, num_frames=24, size=64)
        returned = 0
        for i in range(25):
            video = source[i]
            ids = [set(video.masks(t)) for t in range(0, 24, 3)]
            for object_id in set().union(*ids):
                there = "".join(str(int(object_id in seen)) for seen in ids).strip("0")
                returned += "0" in there
        assert returned >= 2

    def test_a_sprite_has_about_the_area_asked_for(self) -> None:
        for seed in range(20):
            pixels = draw_sprite(np.random.default_rng(seed), 900)
            assert 700 < pixels[3].sum() < 960
            assert pixels[:3].max() <= 255
            assert not pixels[:, [0, -1]].any()
            assert not pixels[:, :, [0, -1]].any()

    def test_outlines_and_textures_stay_in_range(self) -> None:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            assert np.linalg.norm(draw_outline(rng), axis=1).max() < 2.5
            texture = draw_texture(rng, (20, 30))
            assert texture.shape == (3, 20, 30)
            assert texture.std() > 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"length": -1}, "length must be at least 0, not -1"),
            ({"length": 1, "num_frames": 0}, "num_frames must be at least 1, not 0"),
            ({"length": 1, "size": 8}, "size must be at least 16, not 8"),
            ({"length": 1, "seed": -2}, "seed must be at least 0, not -2"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ProceduralVideos(**arguments)


class TestMovingStills:
    def test_blue_pixels_are_the_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without occluders all that is blue is an object: in both kinds, under every look and motion."""
        monkeypatch.setattr(moving_stills, "HIDDEN", 0.0)
        plain = Stills([replace(photo(i, ids=()), name=f"plain{i}") for i in range(3)])
        source = MovingStills(album(24, height=96, width=128), backgrounds=plain, num_frames=4)
        moved = 0
        for i in range(24):
            masks = [np.any([*source[i].masks(t).values()], axis=0) for t in range(4)]
            for t in range(4):
                image = source[i].image(t).astype(int)
                blue = image[..., 2] > image[..., 0] + 50
                assert (blue & masks[t]).sum() > 0.9 * (blue | masks[t]).sum(), f"video {i}, frame {t}"
            moved += not np.array_equal(masks[0], masks[3])
        assert moved == 24

    def test_both_kinds_are_drawn(self) -> None:
        source = MovingStills(album(30, ids=(7, 9)))
        ids = [set(source[i].masks(0)) for i in range(30)]
        over_the_photo = sum(bool(seen & {7, 9}) for seen in ids)
        assert 3 < over_the_photo < 25
        assert all(seen <= {7, 9} or seen <= {1, 2, 3} for seen in ids)
        assert {3} & set().union(*ids)

    def test_something_hides_objects_sometimes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(moving_stills, "HIDDEN", 1.0)
        stills = album(1, height=96, width=128)
        hidden = []
        for seed in range(12):
            source = MovingStills(stills, seed=seed)
            with monkeypatch.context() as patch:
                patch.setattr(moving_stills, "HIDDEN", 0.0)
                alone = [source[0].masks(t) for t in range(8)]
                alone = [m[1].sum() for m in alone]
            with_occluder = [source[0].masks(t).get(1, np.zeros(1)).sum() for t in range(8)]
            hidden.append(max(1 - b / a for a, b in zip(alone, with_occluder, strict=True)))
        assert np.mean([share > 0.05 for share in hidden]) > 0.4

    @pytest.mark.parametrize("stills", [album(1, ids=(5,)), album(4, ids=())], ids=["single", "no objects"])
    def test_without_another_photo_or_an_object_a_camera_moves_over_the_photo(self, stills: Stills) -> None:
        for seed in range(6):
            video = MovingStills(stills, seed=seed)[0]
            assert set(video.masks(0)) == ({5} if len(stills) == 1 else set())
            assert video.image(0).shape == (60, 80, 3)

    def test_of_many_masks_some_are_kept(self) -> None:
        ids = tuple(range(1, 41))
        video = MovingStills(album(1, height=100, width=400, ids=ids))[0]
        assert 1 < len(video.masks(0)) <= moving_stills.MAX_MASKS
        assert set(video.masks(0)) <= set(ids)

    @pytest.mark.parametrize(
        ("size", "shape"), [((120, 200), (60, 100)), ((200, 120), (100, 60)), ((40, 60), (40, 60))]
    )
    def test_large_photos_are_scaled_down(self, size: tuple[int, int], shape: tuple[int, int]) -> None:
        source = MovingStills(album(8, height=size[0], width=size[1]), max_side=100)
        for i in range(8):
            assert source[i].image(0).shape[:2] == shape
            assert all(mask.shape == shape for mask in source[i].masks(0).values())

    def test_frames_have_the_size_of_what_is_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(moving_stills, "COMPOSED", 1.0)
        source = MovingStills(album(3), backgrounds=Stills([photo(9, height=90, width=50)]))
        assert {source[i].image(0).shape for i in range(3)} == {(90, 50, 3)}

    def test_errors_of_the_stills_come_through_when_a_frame_is_read(self) -> None:
        stills = album(2)
        stills.videos[0] = replace(stills.videos[0], error="cannot read broken.jpg")
        source = MovingStills(stills)
        video = source[0]
        assert video.name == "photo0 (moving)"
        for _ in range(2):
            with pytest.raises(DataError, match=r"cannot read broken\.jpg"):
                video.image(0)

    def test_name_and_length_are_those_of_the_stills(self) -> None:
        assert MovingStills(album(5)).name == "album"
        assert MovingStills(album(5), name="other").name == "other"
        assert len(MovingStills(album(5))) == 5

    @pytest.mark.parametrize("argument", ["num_frames", "max_side", "seed"])
    def test_wrong_arguments_are_named(self, argument: str) -> None:
        with pytest.raises(ValueError, match=rf"MovingStills: {argument} must be at least \d+, not -1"):
            MovingStills(album(1), **{argument: -1})

    def test_real_photos(self, shared_data: Path) -> None:
        folder = shared_data / "data" / "ecssd"
        videos = []
        for path in sorted((folder / "images").glob("*.jpg"))[:12]:
            mask = np.array(Image.open(folder / "masks" / f"{path.stem}.png")) > 0
            videos.append(Still(path.stem, np.array(Image.open(path).convert("RGB")), {1: mask}))
        source = MovingStills(Stills(videos), num_frames=3, max_side=200)
        for i in range(12):
            for t in range(3):
                assert max(source[i].image(t).shape) == 200
                areas = [mask.mean() for mask in source[i].masks(t).values()]
                assert areas
                assert max(areas) < 0.8


class TestGeometry:
    def test_an_unmoved_picture_is_itself(self) -> None:
        picture = torch.rand(2, 21, 34, generator=torch.Generator().manual_seed(0))
        everything = Window(top=0, bottom=21, left=0, right=34)
        pose = Pose(x=16.5, y=10.0, angle=0.0, scale=1.0)
        torch.testing.assert_close(warp(picture, pose.to_picture((21, 34)), everything), picture, atol=1e-4, rtol=0)
        part = Window(top=3, bottom=9, left=5, right=30)
        shifted = warp(picture, shift(-2, 1), part)
        torch.testing.assert_close(shifted, picture[:, 4:10, 3:28], atol=1e-4, rtol=0)

    def test_a_pose_places_turns_and_scales(self) -> None:
        """A quarter turn takes what is right of the picture's centre below the place on the frame (y points down)."""
        to_picture = Pose(x=50, y=20, angle=np.pi / 2, scale=2).to_picture((11, 21))
        on_frame = transform(np.linalg.inv(to_picture), np.array([[10.0, 5.0], [13.0, 5.0]]))
        np.testing.assert_allclose(on_frame, [[50, 20], [50, 26]], atol=1e-9)

    def test_a_swing_goes_there_and_back(self) -> None:
        swing = Swing(start=2.0, end=6.0, frames=10.0)
        assert [swing.at(t) for t in (0, 5, 10, 20)] == pytest.approx([2, 4, 6, 2])

    @pytest.mark.parametrize("camera", [False, True])
    def test_motion_is_smooth(self, camera: bool) -> None:
        """In steps below a fifth of the frame, and without shaking: from step to step they change by a few percent."""
        for seed in range(40):
            rng, frame = np.random.default_rng(seed), (80, 100)
            path = draw_camera(rng, frame, strength=0.4) if camera else draw_path(rng, frame, turn=1.0)
            poses = [path.at(t) for t in range(30)]
            places = np.array([[pose.x, pose.y] for pose in poses])
            assert 0 < np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 20
            assert np.linalg.norm(np.diff(places, n=2, axis=0), axis=1).max() < 6
            assert np.abs(np.diff([pose.angle for pose in poses])).max() < 0.3
            assert np.abs(np.diff([np.log(pose.scale) for pose in poses])).max() < 0.15

    def test_a_ripple_folds_nothing(self) -> None:
        for seed in range(10):
            ripple = Ripple.draw(np.random.default_rng(seed), 40, strain=0.5)
            x, y = np.meshgrid(np.arange(60.0), np.arange(60.0))
            points = np.stack([x, y], axis=-1)
            moved = ripple.at(points, 3.0)
            assert np.linalg.norm(moved - points, axis=-1).max() <= ripple.reach
            steps = np.linalg.norm(np.diff(moved - points, axis=0), axis=-1)
            assert 0 < steps.max() <= 0.5

    def test_motion_blur_spreads_evenly_to_both_sides(self) -> None:
        picture = torch.zeros(1, 21, 21)
        picture[0, 10, 10] = 1
        line = smear(picture, 9.0, 0.0)
        assert line.sum() == pytest.approx(1)
        torch.testing.assert_close(line, line.flip(2))
        assert line[0, 10].count_nonzero() == 9
        assert not line[0, [9, 11]].any()
        assert torch.equal(smear(picture, 0.5, -0.9), picture)
        torch.testing.assert_close(smear(torch.ones(1, 5, 5), 3.0, 8.0), torch.ones(1, 5, 5))

    def test_an_occluder_meets_what_it_is_to_hide_in_the_middle_of_the_video(self) -> None:
        target = np.array([200.0, 90.0])
        for seed in range(10):
            path = draw_path(np.random.default_rng(seed), (240, 320), turn=0.3, through=target, num_frames=16)
            places = np.array([[path.at(t).x, path.at(t).y] for t in range(17)])
            assert np.linalg.norm(places - target, axis=1).min() < 60
            assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.2 * 320

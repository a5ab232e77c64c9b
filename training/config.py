"""The schema of a training recipe: every key, its type, its meaning and its published value.

A recipe in `configs/` says only what differs. Hydra composes the recipe with this schema and with the shipped model
config it names, refuses unknown keys and wrong types, and applies overrides of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from i2vpp.config import ModelConfig


@dataclass(kw_only=True)
class ClipConfig:
    """How clips are drawn from the videos of a source.

    Args:
        num_frames: frames of a clip; a still image is repeated, or moved by a virtual camera (`moving_stills`).
        max_objects: objects drawn from the first frame of a clip, at most.
        strides: steps between drawn frames, in annotated frames; one is drawn for each clip.
        reverse: probability that time runs backwards.
        moving_stills: turn still images into clips of `num_frames` frames by a virtual camera and moving objects.
    """

    num_frames: int = 8
    max_objects: int = 1
    strides: list[int] = field(default_factory=lambda: [1])
    reverse: float = 0.5
    moving_stills: bool = False


@dataclass(kw_only=True)
class SourceConfig:
    """One dataset of the mix.

    Args:
        kind: `sav`, `sa1b`, `palette` (DAVIS, MOSE, YouTube-VOS), `coco`, `image_mask` (ECSSD),
            `palette_image` (photos with a palette PNG of object ids), or `procedural` (needs no files).
        images: folder of images, of frame folders or of mp4 files; unused by `procedural`.
        annotations: folder or file of annotations; default: beside the images, as the dataset is published.
        include: file with one item a line, the only ones used; none: all.
        exclude: file with one item a line, never used.
        repeat: how often an item is drawn per epoch; 0.5 draws half of them.
        batch_size: clips per GPU and step.
        length: items per epoch of `procedural`.
        clip: how clips are drawn.
    """

    kind: str = "sav"
    images: str | None = None
    annotations: str | None = None
    include: str | None = None
    exclude: str | None = None
    repeat: float = 1.0
    batch_size: int = 1
    length: int = 1000
    clip: ClipConfig = field(default_factory=ClipConfig)


@dataclass(kw_only=True)
class AugmentConfig:
    """Random changes to clips. Those of the clip are the same on all its frames, the last one is drawn per frame.

    Args:
        flip: probability of a horizontal flip.
        degrees: rotation, in degrees to either side.
        shear: shear in degrees to either side.
        scale: range of the zoom.
        color: brightness, contrast and saturation, and hue change of the clip (0.1, 0.03, 0.03 published for
            brightness, contrast, saturation; hue 0).
        gray: probability that the clip is grey.
        frame_color: brightness, contrast and saturation change of a frame.
    """

    flip: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    color: list[float] = field(default_factory=lambda: [0.1, 0.03, 0.03])
    gray: float = 0.05
    frame_color: list[float] = field(default_factory=lambda: [0.1, 0.05, 0.05])


@dataclass(kw_only=True)
class DataConfig:
    """The mix of sources and how it is loaded.

    Args:
        sources: datasets by name; each step takes its batch from one of them, in an order drawn for each epoch.
        augment: random changes to the clips of all sources.
        workers: loader processes per GPU; 0 loads in the training process.
        max_failures: items that may fail in a row, for whatever reason, before the run ends with an error.
    """

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    workers: int = 4
    max_failures: int = 50


@dataclass(kw_only=True)
class UserConfig:
    """The simulated user: what it draws on a clip.

    Args:
        mask: probability that the first prompt is the mask; otherwise clicks or boxes.
        box: probability, where it is not a mask, that it is a box.
        max_prompted: frames of a clip that are prompted: 1 to this many, the first one always among them.
        max_corrected: frames of a clip on which mistakes are corrected by clicks, prompted ones among them.
        corrections: clicks on a corrected frame.
        from_object: probability that a correction is drawn from the object instead of the mistakes.
        box_noise: a box's corners move by up to this share of its sides,
        box_noise_pixels: but by no more pixels of the input than this.
    """

    mask: float = 0.5
    box: float = 0.5
    max_prompted: int = 2
    max_corrected: int = 2
    corrections: int = 7
    from_object: float = 0.1
    box_noise: float = 0.1
    box_noise_pixels: float = 20.0


@dataclass(kw_only=True)
class LossConfig:
    """Weights of the loss of a step.

    Args:
        mask: weight of the structure loss of the best mask and of the auxiliary masks.
        iou: weight of the L1 error of the predicted IoUs.
        presence: weight of the binary cross-entropy of the object score.
        scale: side of the masks that are compared, over the side of the input; 0.5 takes a quarter of the time.
    """

    mask: float = 20.0
    iou: float = 1.0
    presence: float = 1.0
    scale: float = 1.0


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW and what surrounds it.

    Args:
        learning_rate: learning rate of all parts but the image trunk.
        trunk_learning_rate: learning rate of the image trunk's last layer (TinyViT).
        trunk_layer_decay: factor from each layer of the trunk to the one before it.
        final_ratio: learning rate at the end over that at the start, both ways along a cosine.
        warmup_steps: steps over which the rate rises linearly from 0; at most a tenth of the run.
        weight_decay: decay of the kernels of linear and convolutional layers; nothing else decays.
        betas: decay rates of AdamW's two moments.
        clip_norm: largest norm of the gradient; 0 switches clipping off.
        accumulate: batches per optimiser step; at most the batches of an epoch.
        freeze: parts of the network that do not learn, by name: "image_encoder", "image_encoder.trunk_image", ...
        batch_norm: statistics of the image trunk: `frozen` keeps them (scale and shift learn), `train` updates them on
            each GPU, `sync` over all GPUs.
        dropout: whether the memory attention's dropout is on.
        ema: decay of the moving average of the weights; 0: none is kept.
        max_skipped: steps in a row that may be skipped for a non-finite loss or gradient.
    """

    learning_rate: float = 3e-4
    trunk_learning_rate: float = 6e-5
    trunk_layer_decay: float = 0.9
    final_ratio: float = 0.01
    warmup_steps: int = 0
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip_norm: float = 0.1
    accumulate: int = 1
    freeze: list[str] = field(default_factory=list)
    batch_norm: str = "frozen"
    dropout: bool = True
    ema: float = 0.0
    max_skipped: int = 10


@dataclass(kw_only=True)
class StartConfig:
    """Where the weights come from; at most one of these. None of them: from scratch.

    Args:
        image_model: `tinysam.pth` or `mobile_sam.pt`; what it lacks is initialised.
        checkpoint: a published checkpoint or one of ours, as a path or a name such as `i2vpp-demo`.
        heads: weights of prompt encoder and mask decoder alone, may come on top of the others.
    """

    image_model: str | None = None
    checkpoint: str | None = None
    heads: str | None = None


@dataclass(kw_only=True)
class ValidationConfig:
    """Sequences on which the predictor is scored during training.

    Args:
        images: folder of frame folders; none: no validation.
        annotations: folder of palette PNGs.
        include: file with the names of the sequences used; none: all.
        every: steps between validations; at most half of the run.
        prompt: `gm` (mask), `bb` (box), `3c` or `1c` (clicks), on the first frame of each object.
        max_frames: most frames that are read of a sequence.
    """

    images: str | None = None
    annotations: str | None = None
    include: str | None = None
    every: int = 1000
    prompt: str = "gm"
    max_frames: int = 1000

    def source(self) -> SourceConfig:
        """Return the sequences as a source of data."""
        return SourceConfig(kind="palette", images=self.images, annotations=self.annotations, include=self.include)


@dataclass(kw_only=True)
class RunConfig:
    """The run itself.

    Args:
        folder: where checkpoints, records and the resolved config go; a run found there is resumed.
        epochs: passes over the mix.
        max_steps: optimiser steps after which the run ends, whatever `epochs` says; 0: no limit. The schedule runs over
            the smaller of the two.
        max_minutes: the run stops by itself this long after its start, saved, to be resumed; 0: no limit.
        seed: seed of everything random.
        precision: data type of encoder, memory attention and memory encoder, `float32` or `bfloat16`; weights and their
            updates are float32 always.
        decoder_precision: data type of prompt encoder and mask decoder: `float32`, or `same` for that of `precision`,
            which is faster where many objects and corrections are decoded.
        compile: `torch.compile` the image encoder and the memory attention.
        recompute: whether each frame's activations are computed again in the backward pass instead of kept: `never`,
            `always` or `auto`. `auto` recomputes if a CUDA device has too little free memory to keep them, and always
            on other kinds of devices.
        save_minutes: minutes between checkpoints; one is also written on SIGTERM and SIGUSR1, after a validation with
            the best score so far, and at the end.
        picture_every: steps between TensorBoard pictures, at most half of the run; 0: none.
        device: `auto`, `cuda`, `cpu` or `mps`.
    """

    folder: str = "outputs/train"
    epochs: int = 12
    max_steps: int = 0
    max_minutes: float = 0.0
    seed: int = 0
    precision: str = "bfloat16"
    decoder_precision: str = "float32"
    compile: bool = False
    recompute: str = "never"
    save_minutes: float = 15.0
    picture_every: int = 500
    device: str = "auto"


@dataclass(kw_only=True)
class ClusterConfig:
    """Where the run is launched; options of the command line win over it.

    Args:
        use_cluster: submit to SLURM through submitit.
        num_nodes: machines.
        num_gpus: processes per machine; 0: as many as there are GPUs, or one on a CPU.
        partition: SLURM partition.
        account: SLURM account.
        qos: SLURM quality of service.
        hours: time limit of a SLURM job, which is requeued and resumes where it stopped.
        cpus_per_task: CPU cores for each process of a SLURM job.
    """

    use_cluster: bool = False
    num_nodes: int = 1
    num_gpus: int = 0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    hours: int = 24
    cpus_per_task: int = 10


@dataclass(kw_only=True)
class TrainConfig:
    """Root of a recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    run: RunConfig = field(default_factory=RunConfig)
    start: StartConfig = field(default_factory=StartConfig)
    data: DataConfig = field(default_factory=DataConfig)
    user: UserConfig = field(default_factory=UserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

"""Every key there is, with WDM's published values (arXiv 2402.19043) for 128^3; the other files change some. Data only.

Medical Diffusion's two tasks have keys of their own in `model`, `losses` and `latents`: configs/medical_keys.py.
"""

from ml_collections import ConfigDict, config_dict

LLL_BY_3 = (3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # diffusion.subband_scale as published


def base() -> ConfigDict:
    """Wavelet diffusion of volumes of 128^3 voxels with the published U-Net and optimiser."""
    config = ConfigDict()
    config.task = "wavelet_diffusion"
    config.seed = 0  # this one and all others: 0 to 2^32 - 1

    config.data = data = ConfigDict()
    data.name = "folder"  # who reads the files: atlas, folder, adni, brats, duke, lidc, mrnet; or synthetic: none
    data.root = config_dict.placeholder(str)  # where they are
    data.records = config_dict.placeholder(str)  # what --mode=prepare writes, then read in place of root; gs:// too
    data.cache = config_dict.placeholder(str)  # for preprocessed volumes; the user's cache folder by default
    data.size = (128, 128, 128)  # (D, H, W) voxels
    data.axes = "ijk"  # which voxel axes are D, H, W; "kij" puts slices first
    data.orientation = "RAS"  # or "native", as the file has it
    data.spacing = config_dict.placeholder(tuple)  # millimetres to resample to; as it is by default
    data.fit = "crop"  # how a scan comes to `size`: "crop" or pad about the centre, "resize", or to the "brain" first
    data.margin = 0  # voxels left around the brain
    data.window = "quantile"  # what becomes -1 and 1: "quantile"s of the scan, or "fixed" intensities such as HU
    data.window_range = (0.001, 0.999)
    data.standardise = config_dict.placeholder(str)  # "nyul": MR onto the training scans' common scale of intensities
    data.affine = config_dict.placeholder(tuple)  # voxels to mm, four rows: where samples of imported weights shall lie
    data.series = config_dict.placeholder(str)  # which, of brats, mrnet and duke: "t2f", "sagittal", "Dyn_1"
    data.channels = config_dict.placeholder(
        tuple
    )  # names of images of each scan, in order: ("t1n", "t2f"); else one alone
    data.pattern = config_dict.placeholder(str)  # which files of a folder are images, such as "*/t1*.nii.gz"
    data.label_map = False  # each scan's label map besides; scans that have none are left out
    data.voxel_size = config_dict.placeholder(tuple)  # (I, J, K) mm, of files that do not say, as .npy
    data.nan_background = False  # voxels that are NaN are background: they become the scan's least value
    data.label_name = config_dict.placeholder(str)  # what to label by: mrnet's "acl", brats' "grade", made-up "lesion"
    data.labels = config_dict.placeholder(str)  # or a CSV file of lines NAME,LABEL: scans or subjects, and 0, 1, ...
    data.scalars = config_dict.placeholder(tuple)  # numbers known of scans, ("age",): columns of
    data.table = config_dict.placeholder(
        str
    )  # a CSV or TSV file with a heading; a BIDS folder's participants.tsv by default
    data.flip = False  # left and right, at random, in training
    # So too, at random and at most, all arrays of a scan alike; 0.0: not. docs/data.md
    data.rotate = 0.0  # degrees about the centre, in any direction
    data.scale = 0.0  # share by which lengths grow or shrink
    data.shift = 0.0  # share of each edge
    data.gamma = 0.0  # |log| of the exponent of intensities: contrast; each image by its own, as the next two
    data.brightness = 0.0  # share by which intensities grow or shrink; the air stays
    data.noise = 0.0  # deviation, in [-1, 1]; samples have it too
    data.batch_size = 10  # of all devices together
    data.split = (0.8, 0.1, 0.1)  # of the subjects: train, validation, test
    data.split_table = config_dict.placeholder(str)  # a CSV file subject,split that fixes sides; others by chance
    data.split_seed = 0  # which subject is on which side; with another seed other subjects are
    data.subject_pattern = config_dict.placeholder(
        str
    )  # regex in a path; group 1: the subject; else as docs/data.md says
    data.skip_bad_files = False
    data.atlas_layout = False  # made-up subjects laid out as this dataset, in place of root
    data.atlas_count = 256  # how many
    data.atlas_seed = 0
    data.lesion_share = 0.25

    config.model = unet_model()
    label_keys(config.model)

    config.diffusion = diffusion = ConfigDict()
    diffusion.steps = 1000
    diffusion.schedule = (
        "linear"  # "cosine", "cosine_9999", "vp" (linear in the limit, for few steps), "flow", "karras"
    )
    diffusion.prediction = "x_0"  # "noise", "v" or "flow", the velocity of the straight line from x_0 to noise
    diffusion.times = "uniform"  # over the steps; "continuous" between them; "importance": more where losses are large
    diffusion.min_snr = 0.0  # gamma of min-SNR weights; 0: losses of all times weigh alike
    diffusion.loss = "mse"  # or "l1"
    diffusion.learned_variance = False  # of each value in each step, by twice the channels, for the ancestral sampler
    # What LLL .. HHH are divided by; --mode=subbands measures them.
    diffusion.subband_scale = LLL_BY_3

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-5
    optimizer.warmup_steps = 0  # n: the first update has an n-th of the rate, the n-th all of it
    optimizer.decay = "constant"  # or "cosine", to a hundredth at train.steps
    optimizer.weight_decay = 0.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.clip_norm = 0.0  # 0: gradients are not clipped

    config.train = train = ConfigDict()
    train.steps = 1_200_000
    train.log_every = 50
    train.eval_every = 5000
    train.eval_volumes = 32
    train.evaluate_every = 0  # steps from one small evaluation of samples to the next; 0: none
    train.evaluate_count = 16  # samples of each
    train.checkpoint_every = 5000
    train.keep = 3  # checkpoints, besides the one of lowest validation loss
    train.ema_decay = 0.0  # of the parameters that samples are drawn with; 0: no average
    train.ema_start = 0  # steps before it begins; until then it is the parameters themselves
    train.ema_every = 1  # steps from one update of it to the next
    train.accumulate = 1  # microbatches a step
    train.dtype = "float32"  # or "bfloat16", of the network's computations; parameters and losses stay float32
    # Of products of float32 numbers, in every job: "tensorfloat32", "high" or "highest"; by default as exact as is fast here.
    train.precision = "default"
    train.xla = ""  # options of the compiler for the training step, name=value,name=value; see docs/scaling.md
    train.remat = (
        "none"  # activations to recompute, not keep: of all "blocks", of levels "above:32" voxels an edge; or "auto"
    )
    train.deterministic = False  # on GPUs: the same bits each time, for some speed; CPUs and TPUs always give them
    # Of convolutions: "direct", "planes", "stacked" or "winograd"; by default at each level what the table of
    # medjax/layers/lowering.py says of the machine.
    train.lowering = config_dict.placeholder(str)
    train.fold = config_dict.placeholder(int)  # voxels of W side by side in the U-Net's channels, likewise; 1: none
    train.machine = config_dict.placeholder(str)  # whose table: "cpu", "gpu", "v5e" ...; by default this machine's

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # what the others leave
    mesh.fsdp = 1
    mesh.depth = 1
    mesh.height = 1
    mesh.across = False  # whether a volume may be cut between TPU slices or GPU nodes, which are on a slow network

    config.sample = sample = ConfigDict()
    sample.count = 16
    sample.batch_size = 4  # 0: as many as fit into memory
    sample.seed = 0
    # As measured in docs/sampling.md; `published` samples as WDM and Medical Diffusion did.
    sample.sampler = "dpm_solver"  # "ancestral", "ddim", "dpm_solver_sde", "euler" or "heun"
    sample.steps = config_dict.placeholder(int)  # of diffusion.steps
    sample.steps = 25
    # Which noise levels are sampled: of training's span, evenly in the logarithm of signal to noise; or "trained", evenly
    # many of its steps; or those of another schedule, named as in diffusion.schedule.
    sample.schedule = "log_snr"
    sample.eta = 0.0  # of DDIM: 0 adds no noise on the way
    sample.variance = "large"  # of the ancestral sampler: as published, or "small", better in few steps
    sample.threshold = "clamp"  # keeps voxels in [-1, 1] on the way; "dynamic" gives up contrast instead; or "none"
    sample.label = config_dict.placeholder(int)  # of a model with classes: which; none by default
    sample.guidance = 1.0  # how far towards it (classifier-free, arXiv 2207.12598): 1 is as learned, 0 is none
    sample.start = config_dict.placeholder(str)  # FILE to draw variations of, or FILE,FILE to draw what lies between
    sample.strength = 0.5  # of the noise that `start` is given: the share of the steps that are taken
    sample.ema = True
    sample.checkpoint = "last"  # or "best", of lowest validation loss
    sample.dtype = "float32"  # or "int16", of the files

    config.evaluate = evaluate = ConfigDict()
    evaluate.weights = config_dict.placeholder(
        str
    )  # FILE of MedicalNet or a 2D ResNet-50; more after commas; random by default
    # Volumes of each set that are compared at most, all by default; copies are looked for among all in any case.
    evaluate.count = config_dict.placeholder(int)
    evaluate.intensities = "shared"  # of two folders: one range for all volumes, or "each" its own
    evaluate.pairs = 2000  # whose MS-SSIM is taken, of each set; 0: all
    evaluate.k = 5  # neighbours, of precision, recall, density and coverage
    evaluate.false_alarms = 0.01  # share of new volumes that may be taken for copies; the report says what it came to
    evaluate.batch_size = 8
    evaluate.seed = 0
    evaluate.reader_study = config_dict.placeholder(str)  # a new folder for a blinded set to be scored by readers
    evaluate.reader_count = 20  # volumes of each kind in it

    config.benchmark = benchmark = ConfigDict()
    benchmark.parts = "train,denoise,sampler,haar,data,checkpoint"  # what is timed
    benchmark.windows = 7  # of each, of which the median and the spread are told
    benchmark.seconds = 1.0  # the least length of a window
    benchmark.limit_seconds = 120.0  # after which a part begins no further windows
    return config


def unet_model() -> ConfigDict:
    """Returns what `model` says of a U-Net, WDM's at 128^3."""
    model = ConfigDict()
    model.network = "unet"  # or "wavelet_unet"
    model.base_channels = 64
    model.channel_multipliers = (1, 2, 2, 4, 4)
    model.blocks_per_level = 2
    model.groups = 32
    model.dropout = 0.0
    model.attention_factors = ()  # self-attention on the levels downsampled by these factors: 1, 2, 4, ...
    model.middle_attention = False
    model.attention_heads = 1
    model.up_attention_heads = config_dict.placeholder(int)  # the same on the way up
    model.attention_head_channels = config_dict.placeholder(int)  # channels a head, in place of a number of heads
    model.qkv_order = "heads_first"  # or "qkv_first": how the outputs of the attention's first layer are laid out
    model.scale_shift_norm = False
    model.skip = "add"  # or "concat"
    model.resample_blocks = True  # resample inside residual blocks, or by convolutions of their own
    model.keep_depth = False  # resample H and W only
    model.position_channels = 0  # learned channels beside the input, for volumes that share a space
    return model


def label_keys(model: ConfigDict) -> None:
    """Sets what `model` says of labels."""
    model.classes = 0  # how many there are to learn, of data.label_name or data.labels
    model.label_dropout = 0.1  # the share of examples whose label is not told, for sample.guidance

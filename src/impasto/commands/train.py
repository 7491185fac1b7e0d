"""`python train.py`: Hydra's configuration → `impasto.training.train`, with every mistake in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from impasto import cli
from impasto.commands.configuration import check_hydras, combinations, plain
from impasto.commands.sweep import train_all
from impasto.commands.training_words import LITERAL, as_begun, choices_for_this_machine, composed, with_search_path
from impasto.errors import UserError

USAGE = """
Train a network that paints any photo in the style of one painting.

  python train.py style=starry_night
  python train.py style.image=my_painting.jpg
  python train.py style=great_wave data=folder data.root=photos/ schedule=full trainer=gpu
  python train.py style=starry_night resume=true
  python train.py style=starry_night trainer=ddp trainer.devices=4 schedule=full
  torchrun --nproc-per-node=4 train.py style=starry_night schedule=full
  sbatch scripts/train.sbatch style=starry_night schedule=full
  python train.py -m style=starry_night,great_wave
  python train.py -m style.image=mine.jpg,another.jpg strength=0.5,1

  style=NAME                one of the paintings in configs/style
  style.image=PATH          a painting of yours; style.name= (default: the file's stem)
  strength=S stroke=PX      of the style, default 1: 0.3 keeps more of the photo, 3 less; the painting's short side,
                            default 320: strokes as large as in a painting of this size
  preview=true              instead of training, a sheet of strengths and strokes for one photo, in two minutes
  data=bundled|coco|coco2014|folder  photos to learn from; data.root=DIR, data.validation_root=DIR, data.image_size=
                            (with data.smallest_size=, any from it on), data.batch_size= (per device; auto: the largest
                            that fits), data.pack=auto|true|false (decode once, to data.packs=DIR), data.workers=,
                            data.timeout= (s without photos until it stops); corrupt, tiny, grey and duplicate ones are
                            left out, up to data.max_rejects=0.05 of them, but for data.keep=grey,tiny,duplicate
  schedule=quick|full       6 to 9 minutes on two cores, or the paper's 160,000 images; schedule.images= (in all),
                            schedule.learning_rate=, schedule.warmup= (images), schedule.final=
  trainer=auto|cpu|gpu|ddp  trainer.devices= (torchrun and srun say how many themselves, on any number of nodes),
                            trainer.precision=, trainer.compile=auto|true|false, trainer.gradient_clip= (largest
                            norm; default: 30, of the papers' losses inf)
  loss=default|johnson|gatys  terms relative to photos, or the papers' weights; loss.weights.…= (content, style, tv,
                            grid), loss.style_layers.relu1_1= …, loss.content_layers.relu4_2=
  model=johnson|slim        slim: half the channels; model.width= (channels at full resolution), model.depth= (blocks)
  vgg=oxford|torchvision    or vgg=file vgg.path=FILE vgg.preprocessing=torchvision|caffe; vgg.pooling=max|average
  init=auto|random|FILE|NAME  weights to start from: of a style that ships (if it has this width and depth), none, or
                            of an inference file or style
  resume=true|PATH          go on from the run folder's newest checkpoint if there is one, or from a checkpoint; words
                            that its run was begun with hold on where no others are given
  guards.on_divergence=lower|stop  where the loss blows up: back to the last good weights, 0.3 times the learning rate,
                            three times at most; or stop there
  guards.on_collapse=stop|warn  where validation pictures are constant or all the same, twice running
  checkpoint.every=N|Tmin   images (at most ten minutes of work are lost), or minutes, such as 10min
  validation.every= (images), seed=
  hydra.run.dir=DIR         default: runs/<style>/<when>
  --config-dir=DIR          has style/, schedule/, … of yours, with files as in configs/: style=mine
  -m                        a run for each combination of the values that have commas between them: one per GPU, or as
                            many as a CPU's cores permit, with a log beside each folder; one that fails stops no other

Paths need no quoting beyond your shell's own. Watch with: tensorboard --logdir runs

Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal end the step, save and exit with 130, 143, 138 and 129 (on Linux):
resume=true goes on as if nothing had happened. A second one exits at once. Mistakes exit with 1.
"""


def main(config_dir: Path) -> None:
    """Run training on the command line, with the configuration in `config_dir`."""
    cli.run(lambda words: _train(config_dir, words), USAGE)


def _train(config_dir: Path, words: list[str]) -> None:
    words = with_search_path(words)
    if several := {"-m", "--multirun"} & set(words):
        words = [word for word in words if word not in several]
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(
            f"{flags[0]} is unknown: there are -m, --config-dir=DIR and --help; config.yaml is in a run's folder"
        )
    if several:
        train_all(config_dir, words)
        return
    check_hydras(words)
    for word in words:
        if word.partition("=")[0] not in LITERAL and len(combinations([word])) > 1:
            raise UserError(f"{word} are several: python train.py -m {word} trains each")
    words = as_begun(config_dir, words)
    words = [*words, *choices_for_this_machine(words)]
    config = composed(config_dir, words)
    _start(config_dir, words, plain(config), Path(config.hydra.run.dir))


def _start(config_dir: Path, words: Sequence[str], config: dict[str, Any], run_dir: Path) -> None:
    if config["preview"]:
        from impasto.preview import preview

        preview(config, run_dir)
        return
    from impasto.launcher import end_with_launcher, launch, one_voice, ranks_to_launch

    if ranks := ranks_to_launch(config["trainer"]):
        if config["data"]["batch_size"] == "auto":
            from impasto.checks import check_words
            from impasto.guards.batch_size import with_batch_size
            from impasto.resume import find

            check_words(config)
            config = with_batch_size(config, find(config["resume"], run_dir))
            words = [*words, f"data.batch_size={config['data']['batch_size']}"]
        command = [str(config_dir.parent / "train.py"), *words, f"hydra.run.dir={run_dir}"]
        launch(command, ranks, config["trainer"])
        return
    end_with_launcher()
    with one_voice():
        from impasto.training import train  # Lightning takes seconds: mistakes in the words are answered at once

        own = ("resume", "hydra.run.dir")  # of this start
        train(config, run_dir, [word for word in words if word.partition("=")[0] not in own])

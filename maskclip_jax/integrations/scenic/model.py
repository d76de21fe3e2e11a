"""A model for Scenic's trainers: give `WordsModel` as `model_cls`.

    classification_trainer.train(model_cls=WordsModel, config=config, ...)

Its losses and metrics are those of Scenic's `SegmentationModel`. Needs Scenic; see
requirements-scenic.txt.
"""

import ml_collections
from scenic.model_lib.base_models import segmentation_model

from maskclip_jax.integrations.scenic.module import ScenicModule, semantic_logits
from maskclip_jax.segmenter import Segmenter, load


class WordsModel(segmentation_model.SegmentationModel):
  """Semantic segmentation by words, trained and evaluated by Scenic.

  The fields of the config are those of `default_flax_model_config`.

  Raises:
    ValueError: no such model, words that make no vocabulary, or another number of them
      than the data set has classes.
  """

  def build_flax_model(self) -> ScenicModule:
    """The network with the weights of `config.model`."""
    config = self.default_flax_model_config()
    config.update({name: self.config[name] for name in config if name in self.config})
    kept = {'dtype': config.dtype, 'float32_weights': True}
    if config.random_weights is None:
      segmenter = load(config.model, **kept)
    else:
      seed = config.random_weights
      segmenter = Segmenter.from_preset(config.model, seed=seed, **kept)
    classes = len(segmenter.vocabulary(config.words))
    wanted = self.dataset_meta_data['num_classes']
    if classes != wanted:
      raise ValueError(
        f'config.words has {classes} classes and the data set {wanted}: give one word '
        'or more for each, in the order of its labels'
      )
    _, weights = segmenter.as_function()
    function = semantic_logits(segmenter, config.words, config.input_scale)
    return ScenicModule(function, weights, config.trainable)

  def default_flax_model_config(self) -> ml_collections.ConfigDict:
    """The fields that the model reads, with what they are by default.

    Returns:
      model: a bundle, the directory of a run, or a name of `models list`.
      random_weights: a seed, for a preset that nobody trained; None to load `model`.
      words: the classes, in the order of the labels.
      trainable: regular expressions over the paths of what trains.
      input_scale: what makes the data set's pixels 0..255.
      dtype: what is computed in, 'float32' or 'bfloat16'.
    """
    return ml_collections.ConfigDict(
      {
        'model': 'clip_baseline_miniature',
        'random_weights': ml_collections.config_dict.placeholder(int),
        'words': ml_collections.config_dict.placeholder(str),
        'trainable': ('proposals/.*',),
        'input_scale': 1.0,
        'dtype': 'float32',
      }
    )

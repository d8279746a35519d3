"""From one folder of images a class to a classifier: python folders_to_classifier.py PHOTOS OUT [MODEL]"""

import sys

from vlprompt import PromptClassifier, data

photos, out, model = [*sys.argv[1:], "toy"][:3]  # MODEL: for example openai/clip-vit-base-patch16
dataset = data.few_shot(data.load(photos), shots=16, seed=1)  # the other images are for the test
classifier = PromptClassifier("coop", model).fit_dataset(dataset)
classifier.save(out, measured={"test": classifier.evaluate(dataset.test)})
print(f"{classifier.measured_['test']['accuracy']:.1f}% of the other images are right; written to {out}")

"""The 8x8 handwritten digits that come inside scikit-learn: no download, 1,797 images."""

from onecycle_sweeps.images import Source


def load() -> Source:
    """Read the digits: uint8 (N, 8, 8), 1,437 for training and 360 for testing.

    The values 0..16 are stretched to 0..255. scikit-learn's copy does not say who wrote a digit, so the test part
    cannot hold other writers: it is a draw stratified by class, and the same on every machine.
    """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    drawn = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(np.asarray, drawn)
    return Source(train_images, train_labels, test_images, test_labels, tuple("0123456789"))

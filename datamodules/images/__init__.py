"""Datamodules of whole images, with or without a class each."""

from darkroom.datamodules.images.celeba import CelebA
from darkroom.datamodules.images.cifar10 import CIFAR10
from darkroom.datamodules.images.digits import Digits
from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.images.mnist import MNIST, FashionMNIST

__all__ = ["CIFAR10", "MNIST", "CelebA", "Digits", "FashionMNIST", "ImageFolder"]

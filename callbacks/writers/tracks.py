"""Tracker: numbers of objects that stay the same from frame to frame of a video."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou


class Tracker:
    """Tracks of boxes by overlap alone, without a model of motion.

    In every frame, boxes and tracks of one class are assigned to each other so that the sum of their IoU is largest
    (Hungarian method). A box without a track starts one if its score suffices; a track without a box keeps its last box for
    some frames.

    Args:
        min_iou: smallest IoU of a box and the last box of its track.
        max_age: largest number of frames in a row that a track may miss.
        start_score: smallest score of a box that starts a track.
    """

    def __init__(self, min_iou: float = 0.3, max_age: int = 10, start_score: float = 0.3) -> None:
        self.min_iou, self.max_age, self.start_score = min_iou, max_age, start_score
        self._boxes, self._labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
        self._ids, self._missed = self._labels.clone(), self._labels.clone()
        self._started = 0

    def update(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """Assign the boxes of the next frame to tracks.

        Args:
            boxes: (M, 4), xyxy.
            labels: int64 (M,).
            scores: (M,).

        Returns:
            the number of each box's track, int64 (M,) from 1; 0: none.
        """
        overlap = box_iou(self._boxes, boxes.float()) * (self._labels[:, None] == labels)
        rows, columns = (torch.from_numpy(side) for side in linear_sum_assignment(overlap.numpy(), maximize=True))
        good = overlap[rows, columns] >= self.min_iou
        rows, columns = rows[good], columns[good]
        tracks = torch.zeros_like(labels)
        tracks[columns] = self._ids[rows]
        self._boxes[rows] = boxes[columns].float()
        self._missed += 1
        self._missed[rows] = 0

        new = ((tracks == 0) & (scores >= self.start_score)).nonzero().flatten()
        tracks[new] = torch.arange(self._started + 1, self._started + 1 + len(new))
        self._started += len(new)
        kept = self._missed <= self.max_age
        self._boxes = torch.cat([self._boxes[kept], boxes[new].float()])
        self._labels, self._ids = (
            torch.cat([self._labels[kept], labels[new]]),
            torch.cat([self._ids[kept], tracks[new]]),
        )
        self._missed = torch.cat([self._missed[kept], torch.zeros_like(new)])
        return tracks

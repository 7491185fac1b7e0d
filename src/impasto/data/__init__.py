"""Content photos: folders, their augmentation, batches that resume exactly, COCO's download."""

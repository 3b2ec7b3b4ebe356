"""Single images, pairs of image and mask, layouts of datasets: from files to arrays."""

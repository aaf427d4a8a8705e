"""Images, for nets and data sets alike: their files, channels moved last, and normalization."""

"""Still pictures and animations that FFmpeg does not decode whole: HEIF in tiles, animated WebP; refused formats."""

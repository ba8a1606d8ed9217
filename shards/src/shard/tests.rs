//! A shard, as scripts: this comes in, exactly this goes out.

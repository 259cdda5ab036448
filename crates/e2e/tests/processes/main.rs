//! Scatter's programs as real processes, and what users are promised of them.

mod amnesia;
mod crashes;
mod damage;
mod founding;
mod full_disk;
mod hostile;
mod pauses;
mod serving;
mod starting;

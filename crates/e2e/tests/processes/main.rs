//! Scatter's programs as real processes, and what users are promised of them.

mod amnesia;
mod clocks;
mod crashes;
mod damage;
mod founding;
mod full_disk;
mod hostile;
mod idle;
mod moving;
mod pauses;
mod recovering;
mod requests;
mod reshaping;
mod serving;
mod starting;
mod surroundings;

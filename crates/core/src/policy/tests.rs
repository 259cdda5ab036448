//! Each policy by itself, and all of them together in a toy cluster.

mod cases;
mod model;
mod properties;
mod scene;

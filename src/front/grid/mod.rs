//! Grids: slices seen as rows and columns, or planes, rows and columns, and the tiles that they are cut into.

mod shape;
mod tiling;
mod view;

pub use tiling::Tiling;
pub(in crate::front) use view::Tiles;
pub use view::{Grid, GridMut, GridRows, GridRowsMut};

//! Load generator for any isol8-compatible server, the floors its numbers are compared with, and
//! the report that puts both side by side.

pub mod connection;
pub mod floors;
pub mod generate;
pub mod isolation;
pub mod measurement;
pub mod plot;
pub mod process;
pub mod queue_rows;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod simulate;
pub mod suite;
pub mod surface;

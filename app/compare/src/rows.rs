//! Rows of a report as they are before anything was measured.

use crate::report::model::Row;
use crate::service::{Service, measure};
use crate::workload::{Better, Class, Unit, Workload};

/// The row of a built-in workload.
pub(crate) fn of_workload(workload: &Workload) -> Row {
    row(workload.name, workload.class, workload.about, workload.unit(), workload.better())
}

/// The row of a service.
pub(crate) fn of_service(service: &Service) -> Row {
    let (unit, better) = (measure::unit(service), service.metric.better);
    row(&service.name, Class::Service, &service.about, unit, better)
}

fn row(name: &str, class: Class, about: &str, unit: Unit, better: Better) -> Row {
    Row {
        name: name.to_owned(),
        class,
        about: about.to_owned(),
        unit,
        better,
        cells: Vec::new(),
        pairs: Vec::new(),
        winner: None,
        because: Vec::new(),
    }
}

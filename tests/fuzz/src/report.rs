//! Reports as the tools read them: any document is one, or refused; one that is written is read as it was.

use machnet::daemon::control::report::{Report, Rows};

pub(crate) fn run(document: &[u8]) {
    let Ok(report) = serde_json::from_slice::<Report>(document) else { return };
    for in_one_line in [true, false] {
        let again = report.to_json(in_one_line);
        assert_eq!(serde_json::from_str::<Report>(&again).as_ref().ok(), Some(&report));
    }
    let Some(list) = report.list() else { return };
    let mut rows: Rows = list.rows.clone();
    let length = rows.len();
    assert!(rows.append(list.rows.clone()));
    assert_eq!((rows.len(), rows.part()), (2 * length, report.part()));
}

# Runs what can be automated of the checklist in README (overlay-gw on a real Windows), and prints pass or fail for each line.
# In a PowerShell of an administrator, on a node whose service is installed:   .\check.ps1 -Slot 56
param(
    [Parameter(Mandatory = $true)][int]$Slot,
    [string]$Overlay = '172.16.8',
    [string]$Adapter = 'Overlay'
)
$program = Join-Path $PSScriptRoot 'overlay-gw.exe'
$failed = 0
function Check([string]$what, [scriptblock]$test) {
    try { $ok = [bool](& $test); $why = '' } catch { $ok = $false; $why = " ($($_.Exception.Message))" }
    if ($ok) { "pass  $what" } else { "FAIL  $what$why"; $script:failed++ }
}
function At([int]$offset) { "$Overlay.$($Slot + $offset)" }
$node = & $program status --json | ConvertFrom-Json

Check 'service is running' { (Get-Service overlay-gw).Status -eq 'Running' }
Check 'service starts automatically, delayed' {
    (Get-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\overlay-gw).DelayedAutostart -eq 1
}
Check 'service is restarted after a crash' { (sc.exe qfailure overlay-gw) -match 'RESTART' }
Check 'wintun.dll is WireGuard LLC''s' {
    $signature = Get-AuthenticodeSignature (Join-Path $PSScriptRoot 'wintun.dll')
    $signature.Status -eq 'Valid' -and $signature.SignerCertificate.Subject -match 'CN=WireGuard LLC'
}
Check 'status shows the driver' { $node.device.driver -match 'WireGuard LLC' }
Check 'adapter is up' { (Get-NetAdapter -Name $Adapter).Status -eq 'Up' }
Check 'adapter has the GUID of overlay and slot' {
    (Get-NetAdapter -Name $Adapter).InterfaceGuid -match '^\{6F766777-'
}
Check 'node''s address is there, and not tentative' {
    (Get-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 1)).AddressState -eq 'Preferred'
}
Check 'gateway''s carrier address is not used as a source' {
    (Get-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 2)).SkipAsSource
}
$interface = Get-NetIPInterface -InterfaceAlias $Adapter -AddressFamily IPv4
Check 'no duplicate detection' { $interface.DadTransmits -eq 0 }
Check 'no router discovery' { $interface.RouterDiscovery -eq 'Disabled' }
Check 'metric is 9999, not automatic' {
    $interface.InterfaceMetric -eq 9999 -and $interface.AutomaticMetric -eq 'Disabled'
}
Check 'weak host is off' { $interface.WeakHostSend -eq 'Disabled' -and $interface.WeakHostReceive -eq 'Disabled' }
Check 'MTU' { $interface.NlMtu -eq $node.device.mtu }
Check 'default gateway' {
    (Get-NetRoute -InterfaceAlias $Adapter -DestinationPrefix 0.0.0.0/0).NextHop -eq (At 0)
}
Check 'the Internet does not go through the overlay' {
    (Find-NetRoute -RemoteIPAddress 192.0.2.1 | Select-Object -First 1).InterfaceAlias -ne $Adapter
}
Check 'own connections into the overlay come from the node''s address' {
    (Find-NetRoute -RemoteIPAddress "$Overlay.1" | Select-Object -First 1).IPAddress -eq (At 1)
}
Check 'network is Private or DomainAuthenticated' {
    (Get-NetConnectionProfile -InterfaceAlias $Adapter).NetworkCategory -ne 'Public'
}
Check 'firewall rules' { @(Get-NetFirewallRule -Group overlay-gw).Count -ge 6 }
Check 'gateway answers' { Test-Connection -ComputerName (At 0) -Count 2 -Quiet }
Check 'listener is added, live, and removed' {
    & $program listener add (At 6) | Out-Null
    $live = (Get-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 6)).AddressState -eq 'Preferred'
    & $program listener remove (At 6) | Out-Null
    $live -and -not (Get-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 6) -ErrorAction SilentlyContinue)
}
Check 'an address that another program adds is learnt within 2 s and left alone' {
    New-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 5) -PrefixLength 29 -SkipAsSource $true -PolicyStore ActiveStore | Out-Null
    Start-Sleep -Seconds 2
    $learnt = (& $program listener list --json | ConvertFrom-Json | Where-Object address -eq (At 5)).origin -eq 'host'
    Remove-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 5) -Confirm:$false
    $learnt
}
Check 'private key is sealed, and only SYSTEM and Administrators may have it' {
    $key = "$env:ProgramData\overlay-gw\state\$Adapter\private.key"
    if (-not (Test-Path $key)) { throw "there is no ${key}: with private_key_file in the configuration look at that file by hand" }
    $others = (Get-Acl $key).Access.IdentityReference.Translate([Security.Principal.SecurityIdentifier]).Value |
        Where-Object { $_ -notin 'S-1-5-18', 'S-1-5-32-544' }
    (Get-Content $key -TotalCount 1) -match '^overlay-gw DPAPI' -and -not $others
}
Check 'adapter lives through a kill of the service''s process' {
    $before = (Get-NetAdapter -Name $Adapter).InterfaceGuid
    Stop-Process -Id (& $program service status --json | ConvertFrom-Json).pid -Force
    Start-Sleep -Seconds 1
    (Get-NetAdapter -Name $Adapter).InterfaceGuid -eq $before
}
Check 'service is back within 30 s, and the gateway answers' {
    foreach ($second in 1..30) {
        Start-Sleep -Seconds 1
        if ((Get-Service overlay-gw).Status -eq 'Running') { break }
    }
    Test-Connection -ComputerName (At 0) -Count 2 -Quiet
}
Check 'event log has the start' {
    @(Get-WinEvent -FilterHashtable @{ LogName = 'Application'; ProviderName = 'overlay-gw'; Id = 1 } -MaxEvents 1).Message -match 'packets flow'
}
"$failed failed"
exit $failed

# Runs what can be automated of the checklist in README (overlay-gw on a real Windows), and prints pass or fail for each line.
# In a PowerShell of an administrator, on a node whose service is installed:   .\check.ps1 -Slot 56
# -Dns: what [overlay] dns names, -Rules: the firewall rules that [device.windows] leaves.
param(
    [Parameter(Mandatory = $true)][int]$Slot,
    [string]$Overlay = '172.16.8',
    [string]$Adapter = 'Overlay',
    [string[]]$Dns = @(),
    [string[]]$Rules = @('ICMP', 'cluster (UDP 3343)', 'cluster (TCP 3343)', 'SMB (TCP 445)', 'RPC endpoint mapper (TCP 135)', 'RPC (dynamic ports)')
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
$service = Get-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\overlay-gw
Check 'service starts automatically, delayed' { $service.Start -eq 2 -and $service.DelayedAutostart -eq 1 }
Check 'service waits for the network stack' {
    $service.DependOnService -contains 'Nsi' -and $service.DependOnService -contains 'Tcpip'
}
Check 'service has 10 s before a shutdown' { $service.PreshutdownTimeout -eq 10000 }
Check 'service is restarted 5 s after a crash, each time, and after an error' {
    # SERVICE_FAILURE_ACTIONS as the registry has it: the number of actions at byte 12, from byte 20 on kind (1: restart) and milliseconds.
    $actions = $service.FailureActions
    $count = [BitConverter]::ToInt32($actions, 12)
    $wrong = @(0..($count - 1) | Where-Object {
        [BitConverter]::ToInt32($actions, 20 + 8 * $_) -ne 1 -or [BitConverter]::ToInt32($actions, 24 + 8 * $_) -ne 5000
    })
    $count -eq 3 -and $wrong.Count -eq 0 -and $service.FailureActionsOnNonCrashFailures -eq 1
}
Check 'event source names the program' {
    $source = Get-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Services\EventLog\Application\overlay-gw
    $source.EventMessageFile -eq $program
}
Check 'wintun.dll is WireGuard LLC''s' {
    $signature = Get-AuthenticodeSignature (Join-Path $PSScriptRoot 'wintun.dll')
    $signature.Status -eq 'Valid' -and $signature.SignerCertificate.Subject -match 'CN=WireGuard LLC'
}
Check 'status shows the driver' { $node.device.driver -match 'WireGuard LLC' }
Check 'adapter is up' { (Get-NetAdapter -Name $Adapter).Status -eq 'Up' }
Check 'adapter has the GUID of overlay and slot' {
    # Ours, the lengths of both prefixes (24 and 29), the slot's first address.
    $address = -join ((At 0).Split('.') | ForEach-Object { '{0:X2}' -f [int]$_ })
    (Get-NetAdapter -Name $Adapter).InterfaceGuid -eq "{6F766777-181D-8000-8000-0000$address}"
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
Check 'status has no warning about the host' {
    if (-not $node) { throw 'status says nothing' }
    -not ($node.warnings.code | Where-Object { $_ -in 'network-not-private', 'other_dns_servers', 'clock_behind', 'packet-thread-hangs' })
}
Check 'firewall rules are those, on this adapter, and no others' {
    $wrong = $Rules | Where-Object {
        $rule = Get-NetFirewallRule -DisplayName "overlay-gw ${Adapter}: $_" -ErrorAction SilentlyContinue
        -not $rule -or $rule.Enabled -ne 'True' -or $rule.Direction -ne 'Inbound' -or $rule.Action -ne 'Allow' -or
            ($rule | Get-NetFirewallInterfaceFilter).InterfaceAlias -ne $Adapter
    }
    if ($wrong) { throw "not as it should be: $($wrong -join ', ')" }
    @(Get-NetFirewallRule -Group overlay-gw).Count -eq $Rules.Count
}
Check 'DNS servers of the adapter' {
    $held = (Get-DnsClientServerAddress -InterfaceAlias $Adapter -AddressFamily IPv4).ServerAddresses
    if ((@($held) -join ' ') -ne ($Dns -join ' ')) { throw "they are: $($held -join ' ')" }
    $true
}
Check 'gateway answers' { Test-Connection -ComputerName (At 0) -Count 2 -Quiet }
Check 'listener is added, live, no source, and removed' {
    & $program listener add (At 6) | Out-Null
    $added = Get-NetIPAddress -InterfaceAlias $Adapter -IPAddress (At 6)
    $live = $added.AddressState -eq 'Preferred' -and $added.SkipAsSource
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
$killed = Get-Date
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
Check 'event log has the start after the kill, with its text' {
    $start = @{ LogName = 'Application'; ProviderName = 'overlay-gw'; Id = 1; StartTime = $killed }
    @(Get-WinEvent -FilterHashtable $start -MaxEvents 1).Message -match 'packets flow'
}
Check 'event log has no bug' {
    $all = @{ LogName = 'Application'; ProviderName = 'overlay-gw'; StartTime = $killed }
    -not (@(Get-WinEvent -FilterHashtable $all) | Where-Object { $_.Id -eq 13 })
}
"$failed failed"
exit $failed
